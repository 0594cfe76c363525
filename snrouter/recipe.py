"""Recipe: how one small network is trained, as plain data that a spec, a card and `snrouter.training` share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from snrouter import gamma as axis

_ONLY = {
    "p_mean": "edm",
    "p_std": "edm",
    "sigma_data": "edm",
    "data_scale": "edm",
    "schedule": "vdm",
    "input_noise": "classifier",
}


class Recipe(BaseModel):
    """How to train one network."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    type: Literal["edm", "vdm", "classifier"]
    """What is trained: an expert for quality, an expert for likelihood, or a classifier of the data's labels."""
    network: dict[str, Any]
    """The network, as its card has it, e.g. `{type: unet, channels: [16, 48]}`."""
    support: tuple[float, float] | None = None
    """Experts: (gamma_min, gamma_max) to train on, in the network's own pixels; a learned schedule starts there."""
    steps: PositiveInt = 3000
    """Optimiser steps."""
    batch_size: PositiveInt = 128
    """Images a step."""
    learning_rate: PositiveFloat = 2e-3
    """AdamW's, at its peak; it rises linearly over `warmup` steps and falls as a cosine to zero."""
    warmup: int = Field(default=100, ge=0)
    """Steps of linear warm-up."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay (VDM: 0.01)."""
    gradient_clip: PositiveFloat = 1.0
    """Largest L2 norm of the gradient."""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay per step of the average of weights that is saved; at step n at most (1 + n)/(10 + n)."""
    p_mean: float = -1.2
    """edm: mean of ln edm_sigma in training (EDM: -1.2)."""
    p_std: PositiveFloat = 1.2
    """edm: standard deviation of ln edm_sigma in training (EDM: 1.2)."""
    sigma_data: PositiveFloat = 0.5
    """edm: standard deviation of the data in the preconditioning (EDM: 0.5)."""
    data_scale: PositiveFloat = 1.0
    """edm: pixels are multiplied by this before they reach the network (EDM: 256/255; ours: 1)."""
    schedule: Literal["linear", "learned_linear"] = "linear"
    """vdm: gamma(t) = gamma_min + (gamma_max - gamma_min) t with fixed ends, or with learned ones."""
    input_noise: float = Field(default=0.5, ge=0)
    """classifier: standard deviation of the Gaussian noise added to images in training (Bishop 1995)."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of everything random: initial weights, batches, noise, times, dropout."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        for field, owner in _ONLY.items():
            if field in self.model_fields_set and owner != self.type:
                raise ValueError(f"{field}: belongs to recipes of type {owner}, this one is {self.type}; remove it")
        if self.type == "classifier":
            if self.support is not None:
                raise ValueError("support: a classifier has none; remove it")
        elif self.support is None:
            raise ValueError(f"support: needed by type {self.type}, e.g. support: [-13.3, 5.0]")
        else:
            axis.interval(self.support)
        return self

    def dump(self) -> dict[str, Any]:
        """The fields that matter to this type, as plain data from which the same recipe is built."""
        unused = {field for field, owner in _ONLY.items() if owner != self.type}
        return self.model_dump(mode="json", exclude=unused, exclude_none=True)
