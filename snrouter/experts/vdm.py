"""VDM experts: networks trained for likelihood, eps-prediction on a fixed-linear or learned-linear schedule.

The schedule is gamma(t) = b + |w| t; the network's clock is t. A fixed one is given by its ends, a learned one by the
tensors `schedule.b` and `schedule.w` of the checkpoint.

Source: Kingma et al. 2021 (arXiv 2107.00630), section 3.1 and appendix H.
"""

from __future__ import annotations

from pathlib import Path

from snrouter.experts import parameterization
from snrouter.experts.checkpoints import load_network
from snrouter.experts.network import NetworkExpert
from snrouter.gamma import interval
from snrouter.schedules import LinearSchedule

SUPPORT = (-13.3, 5.0)
"""VDM's fixed schedule, gamma(0) and gamma(1)."""


def vdm(
    checkpoint: Path,
    *,
    support: tuple[float, float] | None = None,
    data_scale: float = 1.0,
    name: str = "vdm",
    allow_extrapolation: bool = False,
) -> NetworkExpert:
    """A VDM network from its checkpoint.

    Args:
        checkpoint: a .safetensors file with its card.
        support: (gamma(0), gamma(1)) of its linear schedule, when neither learned nor in the card (VDM: -13.3, 5).
        data_scale: the network's pixels over ours.
        name: what errors call it.
        allow_extrapolation: warn, rather than refuse, beyond the support.

    Raises:
        CheckpointError: when the checkpoint is missing, damaged or of the wrong shape.
    """
    network, card, extra = load_network(checkpoint)
    if "schedule.b" in extra:
        start = float(extra["schedule.b"])
        ends = (start, start + abs(float(extra["schedule.w"])))
    else:
        ends = support or card.get("expert", {}).get("support", SUPPORT)
    return NetworkExpert(
        network,
        parameterization.eps,
        LinearSchedule(*ends).t,
        interval(ends),
        data_scale=data_scale,
        conditional=bool(getattr(network, "classes", 0)),
        name=name,
        allow_extrapolation=allow_extrapolation,
    )
