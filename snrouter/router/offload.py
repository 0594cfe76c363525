"""Offload: of several experts only the one that runs is on the accelerator."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from snrouter.experts.base import Expert, Prediction
from snrouter.experts.wrapper import ExpertWrapper


class Stage:
    """Room for one expert; the others wait on the CPU."""

    def __init__(self) -> None:
        self.expert: Expert | None = None
        self.device: torch.device | None = None

    def enter(self, expert: Expert, device: torch.device) -> None:
        """Move the expert that is there to the CPU, then this one to the device."""
        if self.expert is expert and self.device == device:
            return
        self.device = None  # a move that fails, e.g. for want of memory, may leave parts of an expert anywhere
        if self.expert is not None:
            self.expert.to("cpu")
        self.expert = expert
        expert.to(device)
        self.device = device


class Offloaded(ExpertWrapper):
    """An expert that is moved to where its input is when it is asked, after the one before it has left.

    A network must not be asked for gradients after another expert has run: its weights are elsewhere by then. A route by gamma
    never does; a mixture of several experts refuses it.

    Args:
        expert: on the CPU.
        stage: shared by all experts of a route.
    """

    def __init__(self, expert: Expert, stage: Stage) -> None:
        super().__init__(expert)
        self.stage = stage

    def around(self, expert: Expert) -> Offloaded:
        """On the same stage."""
        return Offloaded(expert, self.stage)

    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Prediction:
        """The expert's, on the device of z."""
        self.stage.enter(self.expert, z.device)
        return self.expert.predict(z, gamma, condition)


def offload(experts: Mapping[str, Expert]) -> dict[str, Expert]:
    """Experts, by name, that take turns on the device of their input, e.g. `merge(offload(experts), policy)`."""
    stage = Stage()
    return {name: Offloaded(expert.to("cpu"), stage) for name, expert in experts.items()}
