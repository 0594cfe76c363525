"""Reconstruction: what a flow makes of an image that it encodes and decodes again.

z_0 = alpha_0 x is carried up to gamma_max and down again along the probability-flow ODE, then takes the named final step. The flow
itself is invertible, so what differs from x is the error of the solver, and of the final step.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from snrouter.data.base import check_images
from snrouter.errors import SolverError, SpecError
from snrouter.experts.base import Expert
from snrouter.gamma import GammaInterval, alpha
from snrouter.gamma import interval as as_interval
from snrouter.solvers.base import Solution, Solver
from snrouter.solvers.ode import ODE
from snrouter.solvers.sample import Final, check_final, finish


def check_encodes(solver: Solver) -> None:
    """Refuse a solver that cannot encode, before any work.

    Raises:
        SpecError: when it draws noise.
    """
    if not solver.encodes:
        raise SpecError(f"{solver} draws noise and cannot encode; reconstructions need e.g. solver: {{type: heun, steps: 50}}")


def reconstruct(
    expert: Expert,
    images: Tensor,
    interval: GammaInterval | tuple[float, float],
    solver: Solver | None = None,
    *,
    indices: Sequence[int] | None = None,
    condition: Tensor | None = None,
    final: Final = "decode",
    levels: int = 256,
    seed: int = 0,
) -> Solution:
    """Encode images to gamma_max and decode them again.

    Args:
        expert: a single expert or a route.
        images: [B, ...] in [-1, 1], on the device and in the dtype of the states.
        interval: (gamma_min, gamma_max).
        solver: a deterministic one; `ODE()` when left out.
        indices: which images these are, for `final: sample`; 0 ... B - 1 when left out.
        condition: one row an image, [B, ...], passed to the expert.
        final: how z_0 becomes an image.
        levels: number of levels L, for "decode" and "sample".
        seed: of the draws of `final: sample`; the flow draws nothing.

    Returns:
        A `Solution` with `z` [B, ...] back at gamma_min and the reconstructions as `x`; its network calls are those of both ways.

    Raises:
        SpecError: for a solver that cannot encode, a flow that is not invertible, or indices and condition of another length.
        DataError: for images that are not finite.
        SupportError: when the interval leaves the expert's support.
        NonFiniteError: when an expert returns NaN or infinity.
        SolverError: when the solver cannot finish, or its states overflow.
    """
    bounds, solver = as_interval(interval), solver or ODE()
    if not isinstance(solver, Solver) or not isinstance(expert, Expert):
        raise SpecError(f"expected an Expert and a Solver such as snrouter.Heun(18), got {expert!r:.60} and {solver!r:.60}")
    check_encodes(solver)
    check_final(final, levels)
    check_images(images, None)
    if expert.obstacle:
        raise SpecError(f"a reconstruction needs an invertible flow, and {expert.obstacle}; use a threshold")
    keys = range(len(images)) if indices is None else indices
    for what, rows in (("indices", keys), ("condition", condition)):
        if rows is not None and len(rows) != len(images):
            raise SpecError(f"{what}: expected {len(images)}, one per image; got {len(rows)}")
    up = solver.solve(
        expert, alpha(bounds.gamma_min) * images, bounds, indices=keys, condition=condition, seed=seed, direction="encode"
    )
    down = solver.solve(expert, up.z, bounds, indices=keys, condition=condition, seed=seed)
    if not bool(down.z.isfinite().all()):
        raise SolverError(f"the states of {solver} overflowed, though every network output was finite; take more steps")
    each = {name: up.nfe_per_expert.get(name, 0.0) + calls for name, calls in down.nfe_per_expert.items()}
    both = down._replace(nfe=sum(each.values()), nfe_per_expert=each)
    return finish(expert, both, bounds, final, levels, keys, condition, seed)
