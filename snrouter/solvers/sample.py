"""Sampling: initial noise, a solver, and the named final step from z_0 to an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from snrouter.data.base import from_levels, to_levels
from snrouter.draws import Draws
from snrouter.errors import SolverError, SpecError, suggestion
from snrouter.experts.base import Expert
from snrouter.gamma import GammaInterval, alpha, edm_sigma, sigma
from snrouter.gamma import interval as as_interval
from snrouter.solvers.base import Progress, Solution, Solver, progress_bar
from snrouter.solvers.fork import Forked, check_routes, solve_routes
from snrouter.solvers.ode import ODE

Final = Literal["decode", "sample", "denoise", "none"]
"""decode: the level nearest to z_0/alpha_0, the argmax of p(x | z_0); sample: a level drawn from p(x | z_0); denoise: x_hat at
gamma_min, one more network call; none: z_0/alpha_0."""


def sample(
    expert: Expert,
    n: int,
    shape: Sequence[int],
    interval: GammaInterval | tuple[float, float],
    solver: Solver | None = None,
    seed: int = 0,
    *,
    indices: Sequence[int] | None = None,
    condition: Tensor | None = None,
    final: Final = "decode",
    levels: int = 256,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    progress: bool | Progress = False,
) -> Solution:
    """Draw n images.

    Args:
        expert: a single expert or a route.
        n: how many.
        shape: of one image, e.g. (3, 32, 32).
        interval: (gamma_min, gamma_max); starts from N(0, sigma_max^2 I) as the paper does.
        solver: `ODE()` when left out.
        seed: the draws for sample i are the same for any batch size, order or device count; its result too, up to rounding, or
            within the tolerance of a solver whose steps a batch shares.
        indices: which samples to draw, n of them; 0 ... n - 1 when left out.
        condition: one row a sample, [n, ...], passed to the expert.
        final: how z_0 becomes an image.
        levels: number of levels L, for "decode" and "sample".
        batch_size: samples solved together; all when left out.
        dtype: of the states.
        device: of the states; the expert's when left out.
        progress: show a progress bar, or a function to tell the fraction done.

    Returns:
        A `Solution` with `z` [n, *shape] at gamma_min and the images as `x`.

    Raises:
        SpecError: for n < 1 or indices and condition of another length.
        SupportError: when the interval leaves the expert's support.
        NonFiniteError: when an expert returns NaN or infinity.
        SolverError: when the solver cannot finish, or its states overflow.
    """
    forked = sample_routes(
        {"": expert},
        n,
        shape,
        interval,
        solver,
        seed,
        indices=indices,
        condition=condition,
        final=final,
        levels=levels,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        progress=progress,
    )
    return forked.solutions[""]


def sample_routes(
    routes: Mapping[str, Expert],
    n: int,
    shape: Sequence[int],
    interval: GammaInterval | tuple[float, float],
    solver: Solver | None = None,
    seed: int = 0,
    *,
    indices: Sequence[int] | None = None,
    condition: Tensor | None = None,
    final: Final = "decode",
    levels: int = 256,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    progress: bool | Progress = False,
) -> Forked:
    """Draw n images by each of several routes, from the same noise; what the routes have in common at high noise is solved once.

    Every route's images are, bit for bit, those that `sample` draws by it alone with the same batches. The arguments are those of
    `sample`, and so are the errors.

    Args:
        routes: by label, over the same experts.
        n: how many images of each.
        shape: of one image, e.g. (3, 32, 32).
        interval: (gamma_min, gamma_max).
        solver: `ODE()` when left out.
        seed: of all draws.
        indices: which samples to draw, n of them; 0 ... n - 1 when left out.
        condition: one row a sample, [n, ...], passed to the experts.
        final: how z_0 becomes an image.
        levels: number of levels L, for "decode" and "sample".
        batch_size: samples solved together; all when left out.
        dtype: of the states.
        device: of the states; the first expert's when left out.
        progress: show a progress bar, or a function to tell the fraction done.
    """
    if n < 1:
        raise SpecError(f"n: expected at least 1 sample, got {n}")
    check_final(final, levels)
    check_routes(routes)
    bounds, solver = as_interval(interval), solver or ODE()
    if not isinstance(solver, Solver):
        raise SpecError(f"expected a Solver such as snrouter.Heun(18), got {solver!r:.60}")
    indices = range(n) if indices is None else indices
    for what, rows in (("indices", indices), ("condition", condition)):
        if rows is not None and len(rows) != n:
            raise SpecError(f"{what}: expected {n}, one per sample; got {len(rows)}")
    size = batch_size or n
    if size < 1:
        raise SpecError(f"batch_size: expected at least 1, got {size}")
    device = device or next((p.device for route in routes.values() for p in route.parameters()), torch.device("cpu"))
    parts = []
    with progress_bar(progress, "sampling") as tell:
        for start in range(0, n, size):
            keys = indices[start : start + size]
            noise = Draws(seed).normal("initial", keys, shape)
            z = (sigma(bounds.gamma_max) * noise).to(device=device, dtype=dtype)
            part_condition = None if condition is None else condition[start : start + size]

            def told(fraction: float, start: int = start, rows: int = len(keys)) -> None:
                tell((start + fraction * rows) / n)

            part = solve_routes(solver, routes, z, bounds, indices=keys, condition=part_condition, seed=seed, progress=told)
            for label, solution in part.solutions.items():
                if not bool(torch.isfinite(solution.z).all()):
                    raise SolverError(f"the states of {solver} overflowed, though every network output was finite; take more steps")
                finished = finish(routes[label], solution, bounds, final, levels, keys, part_condition, seed)
                part.solutions[label] = finished
                part.spent[label] += finished.nfe - solution.nfe
            parts.append(part)
    return _join(parts)


def check_final(final: str, levels: int) -> None:
    """Refuse an unknown final step, or fewer than two levels.

    Raises:
        SpecError: naming it.
    """
    if final not in get_args(Final):
        raise SpecError(f"final: expected {', '.join(get_args(Final))}, got {final!r}{suggestion(final, get_args(Final))}")
    if not isinstance(levels, int) or levels < 2:
        raise SpecError(f"levels: expected at least 2, got {levels}")


def finish(
    expert: Expert,
    solution: Solution,
    bounds: GammaInterval,
    final: Final,
    levels: int,
    indices: Sequence[int],
    condition: Tensor | None = None,
    seed: int = 0,
) -> Solution:
    """Add the images: the final step from z_0 [B, ...] at gamma_min to x in [-1, 1]."""
    z = solution.z
    if final == "denoise":
        lowest = next(iter(expert.for_samples(indices).pieces(*bounds))).expert
        with torch.no_grad():
            prediction = lowest(z, bounds.gamma_min, condition)
        each = dict(solution.nfe_per_expert)
        for name, rows in prediction.calls.items():
            each[name or "expert"] = each.get(name or "expert", 0.0) + rows / len(z)
        return solution._replace(x=prediction.x_hat, nfe=sum(each.values()), nfe_per_expert=each)
    x = z / alpha(bounds.gamma_min)
    if final == "none":
        return solution._replace(x=x)
    if final == "decode":
        return solution._replace(x=from_levels(to_levels(x, levels), levels, z.dtype))
    # Gumbel-max over the levels, pixel by pixel: an exact draw from the discretised softmax
    centres = from_levels(torch.arange(levels, device=z.device), levels, torch.float64)
    logits = -0.5 * ((x.double().unsqueeze(-1) - centres) / edm_sigma(bounds.gamma_min)) ** 2
    uniform = Draws(seed).uniform("decode", indices, (*z.shape[1:], levels)).to(z.device)
    gumbel = -(-uniform.clamp_min(math.ulp(0.0)).log()).log()
    return solution._replace(x=from_levels((logits + gumbel).argmax(-1), levels, z.dtype))


def _join(parts: Sequence[Forked]) -> Forked:
    """One batch after the other."""
    rows = [len(next(iter(part.solutions.values())).z) for part in parts]

    def mean(values: Sequence[float]) -> float:
        return sum(value * count for value, count in zip(values, rows, strict=True)) / sum(rows)

    def joined(solutions: Sequence[Solution]) -> Solution:
        names = sorted({name for solution in solutions for name in solution.nfe_per_expert})
        each = {name: mean([solution.nfe_per_expert.get(name, 0.0) for solution in solutions]) for name in names}
        images = [solution.x for solution in solutions if solution.x is not None]
        z = torch.cat([solution.z for solution in solutions])
        return Solution(z, sum(each.values()), each, solutions[0].status, torch.cat(images))

    labels = parts[0].solutions
    return Forked(
        {label: joined([part.solutions[label] for part in parts]) for label in labels},
        {label: mean([part.spent[label] for part in parts]) for label in labels},
    )
