"""EDM experts: networks trained for image quality, under any of the four preconditionings of EDM's code.

With s = edm_sigma in the network's own pixels:

| preconditioning | row | told of the noise | trained on |
|---|---|---|---|
| edm | edm | log(s) / 4 | s in [0.002, 80] |
| vp | eps | (M - 1) t, t the time at s on score SDE's VP | t in [1e-5, 1] |
| ve | ve | log(s / 2) | s in [0.02, 100] |
| iddpm | eps | the step of M at s on iDDPM's cosine, fractional between two | all M steps |

An iDDPM network may have learned the variance, too, in as many channels again; they are not read.

Source: Karras et al. 2022 (arXiv 2206.00364), table 1, sections 2 and 5, appendix C.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snrouter.errors import SpecError
from snrouter.experts import parameterization
from snrouter.experts.checkpoints import Expected, Loaded, load_expert_network
from snrouter.experts.network import NetworkExpert
from snrouter.experts.parameterization import Parameterization
from snrouter.gamma import from_edm_sigma, interval
from snrouter.schedules import Clock, DiscreteSchedule, VPSchedule, iddpm_alphas_cumprod, schedule

VP_START = 1e-5
"""The time from which score SDE's VP networks are trained."""


class Preconditioning(NamedTuple):
    """How a network is fed and read, what it is told of the noise, and the gammas that it was trained on."""

    parameterization: Parameterization
    clock: Clock
    support: tuple[float, float]


@lru_cache(maxsize=64)  # one object for one number, so that experts with one trunk are seen to be fed alike
def _edm(sigma_data: float = 0.5) -> Preconditioning:
    row = partial(parameterization.edm, sigma_data=sigma_data)
    return Preconditioning(row, schedule("edm_c_noise").t, (from_edm_sigma(0.002), from_edm_sigma(80.0)))


def _vp(beta_d: float = 19.9, beta_min: float = 0.1, M: float = 1000) -> Preconditioning:  # noqa: N803 - the card's own key
    time = VPSchedule(beta_min, beta_min + beta_d)
    lo, hi = time.gamma(torch.tensor([VP_START, 1.0], dtype=torch.float64)).tolist()
    return Preconditioning(parameterization.eps, partial(_vp_step, time, M), (lo, hi))


def _vp_step(time: VPSchedule, steps: float, gamma: Tensor) -> Tensor:
    return (steps - 1) * time.t(gamma)


def _ve() -> Preconditioning:
    return Preconditioning(parameterization.ve, _ve_noise, (from_edm_sigma(0.02), from_edm_sigma(100.0)))


def _ve_noise(gamma: Tensor) -> Tensor:
    return gamma / 2 - math.log(2)


def _iddpm(C_1: float = 0.001, C_2: float = 0.008, M: float = 1000) -> Preconditioning:  # noqa: N803 - the card's own keys
    if int(M) != M or M < 2:
        raise SpecError(f"M: expected two or more steps, a whole number, got {M:g}")
    if C_1 >= 1:
        raise SpecError(f"C_1: expected a factor below 1, got {C_1:g}")
    steps = DiscreteSchedule(iddpm_alphas_cumprod(C_1, C_2, int(M)))
    return Preconditioning(parameterization.eps, steps.t, steps.support)


PRECONDITIONINGS: dict[str, Callable[..., Preconditioning]] = {"edm": _edm, "vp": _vp, "ve": _ve, "iddpm": _iddpm}
"""Preconditionings by the name a card gives them; their parameters are the card's, too."""

_NUMBERS = {name: tuple(inspect.signature(build).parameters) for name, build in PRECONDITIONINGS.items()}
CARD: dict[str, Expected] = {
    "preconditioning": tuple(PRECONDITIONINGS),
    "support": "pair",
    "data_scale": "number",
    **{number: "number" for numbers in _NUMBERS.values() for number in numbers},
}
"""What a card of this type may hold under "expert"."""


def edm(
    checkpoint: Path,
    *,
    sigma_data: float | None = None,
    data_scale: float | None = None,
    support: tuple[float, float] | None = None,
    head: int | None = None,
    name: str = "edm",
    allow_extrapolation: bool = False,
    loaded: Loaded | None = None,
) -> NetworkExpert:
    """An EDM network from its checkpoint; arguments left out are the card's, or those of its preconditioning.

    Args:
        checkpoint: a .safetensors file with its card, or a .pkl of NVlabs/edm.
        sigma_data: standard deviation of the data in EDM's own preconditioning (EDM: 0.5).
        data_scale: the network's pixels over ours (EDM: 256/255, its grid being k/127.5 - 1; the paper used 1).
        support: (gamma_min, gamma_max) it was trained on, in the network's own pixels (EDM: sigma in [0.002, 80]).
        head: which of the network's heads, from 0, for one that has several, as `snrouter train` makes for `adapter`.
        name: what errors call it.
        allow_extrapolation: warn, rather than refuse, beyond the support.
        loaded: files read before; experts of one file share its network then. A run fills it in.

    Raises:
        CheckpointError: when the checkpoint is missing, damaged or of the wrong shape.
        SpecError: for a number that is not positive, or not one of the preconditioning's, or a head that is not there.
    """
    network, held, _ = load_expert_network(checkpoint, "edm", CARD, head, loaded)
    given = {"sigma_data": sigma_data, "data_scale": data_scale, "support": support}
    chosen: dict[str, Any] = held | {key: value for key, value in given.items() if value is not None}
    kind = chosen.pop("preconditioning", "edm")
    scale, trained = chosen.pop("data_scale", 256 / 255), chosen.pop("support", None)
    for key, number in chosen.items():
        if key not in _NUMBERS[kind]:
            known = ", ".join(_NUMBERS[kind]) or "no number"
            raise SpecError(f"expert {name!r}: {key}: preconditioning {kind!r} has {known}; leave it out")
        if not 0 < number < math.inf:
            raise SpecError(f"expert {name!r}: {key}: expected a positive number, got {number:g}")
    try:
        row, clock, whole = PRECONDITIONINGS[kind](**chosen)
    except SpecError as error:
        raise SpecError(f"expert {name!r}: {error}") from None
    return NetworkExpert(
        _Mean(network) if kind == "iddpm" else network,
        row,
        clock,
        interval(trained or whole),
        data_scale=scale,
        conditional=bool(getattr(network, "classes", 0)),
        name=name,
        allow_extrapolation=allow_extrapolation,
    )


class _Mean(nn.Module):
    """What a network predicts, without the variance that it may have learned in as many further channels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, noise_level: Tensor, condition: Tensor | None) -> Tensor:
        output: Tensor = self.network(z, noise_level, condition)
        return output[:, : z.shape[1]]
