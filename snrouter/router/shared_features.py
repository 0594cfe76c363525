"""Features that several experts of a mixture read, computed once a batch: those experts differ in their heads alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from snrouter.experts.base import Expert
from snrouter.experts.network import NetworkExpert


def shared_features(
    experts: Mapping[str, Expert], active: Tensor, z: Tensor, gamma: Tensor, condition: Tensor | None = None
) -> dict[str, Tensor]:
    """Features [B, ...] of the experts that share a trunk with another one, by name; zero in rows that none of these is asked for.

    Args:
        experts: that are asked for some row.
        active: which rows each is asked for, bool [B, K] on the CPU, a column an expert.
        z: noisy states in the VP frame, [B, ...].
        gamma: float64 [B] on the CPU.
        condition: class labels or another condition, [B, ...], or None.
    """
    groups: list[tuple[tuple[object, ...], list[int]]] = []
    named = list(experts.items())
    for column, (_, expert) in enumerate(named):
        if isinstance(expert, NetworkExpert) and (trunk := expert.trunk) is not None:
            known = next((columns for other, columns in groups if other == trunk), None)
            if known is None:
                groups.append((trunk, [column]))
            else:
                known.append(column)
    found: dict[str, Tensor] = {}
    for columns in (columns for _, columns in groups if len(columns) > 1):
        expert = named[columns[0]][1]
        assert isinstance(expert, NetworkExpert)
        features = _features(expert, active[:, columns].any(1), z, gamma, condition)
        found |= {named[column][0]: features for column in columns}
    return found


def _features(expert: NetworkExpert, asked: Tensor, z: Tensor, gamma: Tensor, condition: Tensor | None) -> Tensor:
    """Of the rows that are asked for; the trunk does not run for the others."""
    if bool(asked.all()):
        return expert.features(z, gamma, condition)
    rows = asked.nonzero()[:, 0]
    there = rows.to(z.device)
    part = expert.features(z[there], gamma[rows], None if condition is None else condition[there])
    return torch.zeros(len(z), *part.shape[1:], dtype=part.dtype, device=part.device).index_copy(0, there, part)
