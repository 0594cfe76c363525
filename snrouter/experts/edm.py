"""EDM experts: networks trained for image quality with EDM's preconditioning.

Source: Karras et al. 2022 (arXiv 2206.00364), table 1 and section 5.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from snrouter.errors import SpecError
from snrouter.experts import parameterization
from snrouter.experts.checkpoints import load_expert_network
from snrouter.experts.network import NetworkExpert
from snrouter.gamma import interval
from snrouter.schedules import schedule

SUPPORT = (2 * math.log(0.002), 2 * math.log(80.0))
"""EDM's sigma in [0.002, 80] as gamma: [-12.43, 8.76]."""


def edm(
    checkpoint: Path,
    *,
    sigma_data: float | None = None,
    data_scale: float | None = None,
    support: tuple[float, float] | None = None,
    name: str = "edm",
    allow_extrapolation: bool = False,
) -> NetworkExpert:
    """An EDM network from its checkpoint; arguments left out are the card's, or EDM's own.

    Args:
        checkpoint: a .safetensors file with its card.
        sigma_data: standard deviation of the data in the preconditioning (EDM: 0.5).
        data_scale: the network's pixels over ours (EDM: 256/255, its grid being k/127.5 - 1; the paper used 1).
        support: (gamma_min, gamma_max) it was trained on, in the network's own pixels (EDM: sigma in [0.002, 80]).
        name: what errors call it.
        allow_extrapolation: warn, rather than refuse, beyond the support.

    Raises:
        CheckpointError: when the checkpoint is missing, damaged or of the wrong shape.
    """
    network, held, _ = load_expert_network(checkpoint, "edm", ("support", "sigma_data", "data_scale"))
    trained = {"sigma_data": 0.5, "data_scale": 256 / 255, "support": SUPPORT, **held}
    given = {"sigma_data": sigma_data, "data_scale": data_scale, "support": support}
    chosen = trained | {key: value for key, value in given.items() if value is not None}
    if not chosen["sigma_data"] > 0:
        raise SpecError(f"expert {name!r}: sigma_data: expected a positive number, got {chosen['sigma_data']:g}")
    return NetworkExpert(
        network,
        partial(parameterization.edm, sigma_data=chosen["sigma_data"]),
        schedule("edm_c_noise").t,
        interval(chosen["support"]),
        data_scale=chosen["data_scale"],
        conditional=bool(getattr(network, "classes", 0)),
        name=name,
        allow_extrapolation=allow_extrapolation,
    )
