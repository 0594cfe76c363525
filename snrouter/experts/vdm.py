"""VDM experts: networks trained for likelihood, eps-prediction on a fixed-linear or learned-linear schedule.

The schedule is gamma(t) = b + |w| t, whose ends are the support: a fixed one is in the card, a learned one in the tensors
`schedule.b` and `schedule.w` of the checkpoint. The network is told t in [0, 1], read off gamma on the line between the two
gammas of the card's `clock`; left out, they are the schedule's own ends. A network may keep a fixed clock while its schedule is
learned.

Source: Kingma et al. 2021 (arXiv 2107.00630), section 3.1 and appendix H.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from snrouter.errors import CheckpointError, SpecError
from snrouter.experts import parameterization
from snrouter.experts.checkpoints import Expected, Loaded, load_expert_network
from snrouter.experts.network import NetworkExpert
from snrouter.gamma import interval
from snrouter.schedules import Clock, LinearSchedule

SUPPORT = (-13.3, 5.0)
"""VDM's fixed schedule, gamma(0) and gamma(1)."""

CARD: dict[str, Expected] = {"support": "pair", "clock": "pair"}
"""What a card of this type may hold under "expert"."""


def vdm(
    checkpoint: Path,
    *,
    support: tuple[float, float] | None = None,
    data_scale: float = 1.0,
    head: int | None = None,
    name: str = "vdm",
    allow_extrapolation: bool = False,
    loaded: Loaded | None = None,
) -> NetworkExpert:
    """A VDM network from its checkpoint.

    Args:
        checkpoint: a .safetensors file with its card, or model.pt of the PyTorch VDM with its config.yaml.
        support: narrower than the schedule's ends, which are learned or in the card; (gamma(0), gamma(1)) where neither is (VDM:
            -13.3, 5).
        data_scale: the network's pixels over ours.
        head: which of the network's heads, from 0, for one that has several, as `snrouter train` makes for `adapter`.
        name: what errors call it.
        allow_extrapolation: warn, rather than refuse, beyond the support.
        loaded: files read before; experts of one file share its network then. A run fills it in.

    Raises:
        CheckpointError: when the checkpoint is missing, damaged or of the wrong shape, or half of its schedule is.
        SpecError: when the support goes beyond the schedule, or the head is not there.
    """
    network, held, extra = load_expert_network(checkpoint, "vdm", CARD, head, loaded)
    trained = _learned(checkpoint, extra) or held.get("support")
    ends = interval(trained or support or SUPPORT)
    chosen = interval(support or ends)
    if not (ends.covers(chosen.gamma_min) and ends.covers(chosen.gamma_max)):
        raise SpecError(f"expert {name!r}: support {chosen} goes beyond its schedule {ends}; narrow it, or leave it out")
    return NetworkExpert(
        network,
        parameterization.eps,
        _clock(*held.get("clock", ends)),
        chosen,
        data_scale=data_scale,
        conditional=bool(getattr(network, "classes", 0)),
        name=name,
        allow_extrapolation=allow_extrapolation,
    )


@lru_cache(maxsize=64)
def _clock(lo: float, hi: float) -> Clock:
    """One object for one line, so that experts with one trunk are seen to be told the same."""
    return LinearSchedule(lo, hi).t


def _learned(checkpoint: Path, extra: Mapping[str, Tensor]) -> tuple[float, float] | None:
    """The ends of the learned schedule b + |w| t, if there is one."""
    found = [extra[key] for key in ("schedule.b", "schedule.w") if key in extra]
    if not found:
        return None
    if [tensor.numel() for tensor in found] != [1, 1]:
        raise CheckpointError(
            f"checkpoint {checkpoint}: expected one number in each of schedule.b and schedule.w; convert it again"
        )
    start, slope = map(float, found)
    return start, start + abs(slope)
