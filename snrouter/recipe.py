"""Recipes: how a network, a gate, or a gate with its experts is trained, as data that a spec, a card and training share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, WrapValidator, field_validator, model_validator

from snrouter import gamma as axis
from snrouter.errors import suggestion

_WEIGHTING = {"edm": "edm", "vdm": "elbo"}
_ONLY: dict[str, Callable[[Recipe], bool]] = {
    "p_mean": lambda recipe: recipe.weighted == "edm",
    "p_std": lambda recipe: recipe.weighted == "edm",
    "sigma_data": lambda recipe: "edm" in (recipe.type, recipe.weighted),
    "data_scale": lambda recipe: recipe.type == "edm",
    "schedule": lambda recipe: recipe.type == "vdm",
    "weighting": lambda recipe: recipe.type != "classifier",
    "input_noise": lambda recipe: recipe.type == "classifier",
}
"""Fields that some recipes have no use for."""

MOST_SEEDS = 2**32
"""Of longer seeds torch's generator on a CPU keeps the low 32 bits."""

_KNOWN_ELSEWHERE = ("type", "in_channels", "experts", "gamma_min", "gamma_max")
"""Arguments of a gate's network that follow from the data, the experts and the interval."""


class Optimisation(BaseModel):
    """What every recipe takes: how long, how fast, and from which seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: PositiveInt = 3000
    """Optimiser steps."""
    batch_size: PositiveInt = 128
    """Images a step, over all devices."""
    learning_rate: PositiveFloat = 2e-3
    """AdamW's, at its peak; it rises linearly over `warmup` steps, and then falls as a cosine to zero."""
    warmup: int = Field(default=100, ge=0)
    """Steps of linear warm-up; each phase of a mixture has its own, of at most a tenth of its steps."""
    learning_rate_decay: Literal["cosine", "none"] = "cosine"
    """Whether it falls at all."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's decays of the gradient's running mean and square (VDM: 0.9, 0.99)."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay (VDM: 0.01)."""
    gradient_clip: float = Field(default=1.0, ge=0)
    """Largest L2 norm of the gradient; 0 for no limit."""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay per step of the average of weights that is saved; at step n at most (1 + n)/(10 + n)."""
    seed: int = Field(default=0, ge=0, lt=MOST_SEEDS)
    """Seed of everything random: initial weights, batches, noise, times, dropout. Phases of a mixture have their own."""
    checkpoint_every: PositiveInt = 500
    """Steps between checkpoints, from the last of which a training that was killed goes on; of no matter to what comes out."""

    def dump(self) -> dict[str, Any]:
        """The fields that matter to what comes out, as plain data from which the same recipe is built."""
        fields = self.model_dump(mode="json", exclude={"checkpoint_every", *self._unused})
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def _unused(self) -> set[str]:
        return set()


class Recipe(Optimisation):
    """How to train one network."""

    type: Literal["edm", "vdm", "classifier"]
    """What is trained: an expert for quality, an expert for likelihood, or a classifier of the data's labels."""
    network: dict[str, Any]
    """The network, as its card has it, e.g. `{type: unet, channels: [16, 48]}`."""
    support: tuple[float, float] | None = None
    """Experts: (gamma_min, gamma_max) to train on, in the network's own pixels; a learned schedule starts there."""
    weighting: Literal["elbo", "simple", "edm"] | None = None
    """Experts: what the loss weighs each noise level by, whatever the type; edm for type edm and elbo for vdm when left out."""
    p_mean: float = -1.2
    """Weighting edm: mean of ln edm_sigma in training (EDM: -1.2)."""
    p_std: PositiveFloat = 1.2
    """Weighting edm: standard deviation of ln edm_sigma in training (EDM: 1.2)."""
    sigma_data: PositiveFloat = 0.5
    """edm: standard deviation of the data in the preconditioning and in the weighting (EDM: 0.5)."""
    data_scale: PositiveFloat = 1.0
    """edm: pixels are multiplied by this before they reach the network (EDM: 256/255; ours: 1)."""
    schedule: Literal["linear", "learned_linear"] = "linear"
    """vdm: gamma(t) = gamma_min + (gamma_max - gamma_min) t with fixed ends, or with learned ones."""
    input_noise: float = Field(default=0.5, ge=0)
    """classifier: standard deviation of the Gaussian noise added to images in training (Bishop 1995)."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        for field in self._unused & self.model_fields_set:
            raise ValueError(f"{field}: of no use to type {self.type} with weighting {self.weighted}; remove it")
        if self.schedule == "learned_linear" and self.weighted != "elbo":
            raise ValueError(f"schedule: learned ends need weighting elbo, got {self.weighted}; set schedule: linear")
        if self.type == "classifier":
            if self.support is not None:
                raise ValueError("support: a classifier has none; remove it")
        elif self.support is None:
            raise ValueError(f"support: needed by type {self.type}, e.g. support: [-13.3, 5.0]")
        else:
            axis.interval(self.support)
        return self

    @property
    def weighted(self) -> str | None:
        """The weighting, resolved; None for a classifier."""
        return self.weighting or _WEIGHTING.get(self.type)

    @property
    def _unused(self) -> set[str]:
        return {field for field, used in _ONLY.items() if not used(self)}


class Gating(Optimisation):
    """What recipes of gates share: L = L_NLL + load_balance L_load + entropy L_ent."""

    gate: dict[str, Any] = Field(default_factory=dict)
    """The gate's network, e.g. `{channels: [16, 32], width: 64, dropout: 0.1}`; what is left out is its default."""
    top_k: PositiveInt | None = None
    """Only so many experts run for each image and noise level, in training too, 2 or more; all when left out."""
    load_balance: float = Field(default=0.1, ge=0)
    """lambda_load: what pushes the mean weights of a batch to uniform counts."""
    load_balance_form: Literal["squared", "switch"] = "squared"
    """squared: K sum_k P_k^2 - 1 (Shazeer et al. 2017); switch: K sum_k f_k P_k - 1 (Fedus et al. 2021)."""
    entropy: float = Field(default=0.01, ge=0)
    """lambda_ent: what rewards entropy of the weights over time steps counts."""
    gradient_clip: float = Field(default=5.0, ge=0)
    """Largest L2 norm of the gradient; 0 for no limit."""

    @field_validator("top_k")
    @classmethod
    def _weighs(cls, top_k: int | None) -> int | None:
        if top_k == 1:  # renormalised, its weight is 1 whatever the logits
            raise ValueError("one expert alone has weight 1, from which no gate learns; train with 2, and set 1 in the route")
        return top_k

    @field_validator("gate")
    @classmethod
    def _only_its_own(cls, gate: dict[str, Any]) -> dict[str, Any]:
        for key in gate:
            if key in _KNOWN_ELSEWHERE:
                raise ValueError(f"{key}: follows from the data, the experts and the interval; remove it")
        return gate


class GateRecipe(Gating):
    """How to train a gate over experts of the spec, which stay as they are."""

    type: Literal["gate"]
    """A gate over frozen experts."""
    experts: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Names of the spec's experts; all when left out."""

    @model_validator(mode="after")
    def _check(self) -> GateRecipe:
        if self.experts is not None:
            if len({*self.experts}) < len(self.experts):
                raise ValueError(f"experts: expected each once, got {', '.join(self.experts)}")
            _check_top_k(self.top_k, len(self.experts))
        return self


class MixtureRecipe(Gating):
    """How to train new experts with their gate: each expert on a slice of the data first, then all on all of it."""

    type: Literal["mixture"]
    """Experts and a gate, in two phases."""
    experts: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], str | None] = Field(min_length=1)
    """New experts by name, each with the slice it is warmed on; null: all images."""
    expert: dict[str, Any]
    """What each of them is: keys of type edm or vdm that do not say how long, e.g. `{type: vdm, network: ..., support: ...}`."""
    warm: float = Field(default=0.15, ge=0, lt=1)
    """Share of `steps` in which each expert is trained by itself, on batch_size // K images a step; some must be left."""
    routing: Literal["gate", "random"] = "gate"
    """How the second phase gives images to experts: by the gate, or by lot, which leaves no gate and no use for its keys."""
    joint: bool = True
    """Whether the second phase trains the experts too, or the gate alone."""
    adapter: int = Field(default=0, ge=0)
    """Above 0: the experts are one network, a shared encoder with an adapter of this width for each."""

    @field_validator("expert")
    @classmethod
    def _an_expert(cls, expert: dict[str, Any]) -> dict[str, Any]:
        for key in expert:
            if key in Optimisation.model_fields:
                raise ValueError(f"{key}: belongs to the mixture, whose phases divide it; move it there")
        recipe = Recipe.model_validate(expert)
        if recipe.type == "classifier" or recipe.schedule == "learned_linear":
            raise ValueError("expected type edm, or vdm with schedule linear, whose supports stay as they are")
        return expert

    @model_validator(mode="after")
    def _check(self) -> MixtureRecipe:
        _check_top_k(self.top_k, len(self.experts))
        if self.batch_size < len(self.experts):
            raise ValueError(
                f"batch_size: expected at least one image for each of {len(self.experts)} experts, got {self.batch_size}"
            )
        if self.warm_steps >= self.steps:
            raise ValueError(f"warm: {self.warm:g} of {self.steps} steps leaves none for the second phase; set warm: 0.15")
        if self.routing == "random" and not self.joint:
            raise ValueError("joint: by lot, without a gate, the second phase trains the experts or nothing; set joint: true")
        if not self.joint and not self.warm_steps:
            raise ValueError("joint: false leaves experts as the first phase made them, and there is none; set warm: 0.15")
        if self.adapter and self.expert["network"].get("type") != "unet":
            raise ValueError(f"adapter: needs a network of type unet, got {self.expert['network'].get('type')}; set adapter: 0")
        return self

    @property
    def warm_steps(self) -> int:
        """Steps of the first phase."""
        return round(self.warm * self.steps)

    def warmed(self, index: int) -> Recipe:
        """The recipe of the first phase of one expert, with a seed of its own."""
        own = {name: getattr(self, name) for name in Optimisation.model_fields}
        own |= self._phase(max(1, self.warm_steps), f"expert {index}")
        return Recipe(**self.expert, **own | {"batch_size": self.batch_size // len(self.experts)})

    def second(self) -> MixtureRecipe:
        """The recipe of the second phase."""
        return self.model_copy(update=self._phase(self.steps - self.warm_steps, "second phase"))

    def _phase(self, steps: int, what: str) -> dict[str, Any]:
        return {"steps": steps, "warmup": min(self.warmup, steps // 10), "seed": _seed(self.seed, what)}

    def together(self) -> Recipe:
        """The recipe of the first phase of experts that are one network."""
        own = self.warmed(0)
        joined = {"type": "adapter_unet", "heads": len(self.experts), "adapter": self.adapter}
        return own.model_copy(update={"network": own.network | joined})

    @property
    def _unused(self) -> set[str]:
        gates = {"gate", "top_k", "load_balance", "load_balance_form", "entropy"}
        return gates if self.routing == "random" else set()


def _seed(seed: int, what: str) -> int:
    """The seed of a part of a training, another for each."""
    return int.from_bytes(hashlib.sha256(f"{seed} {what}".encode()).digest()[:4], "little")


def _check_top_k(top_k: int | None, experts: int) -> None:
    if top_k is not None and top_k > experts:
        raise ValueError(f"top_k: expected at most {experts}, the number of experts, got {top_k}")


def _by_type(given: Any, _: Callable[[Any], Any]) -> Recipe | GateRecipe | MixtureRecipe:
    """By its type alone, so that a fault is told once, and of the recipe that was meant."""
    if isinstance(given, Recipe | GateRecipe | MixtureRecipe):
        return given
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind is not None and kind not in _TYPES:
        raise ValueError(f"type: expected {', '.join(_TYPES)}, got {kind!r}{suggestion(str(kind), _TYPES)}")
    return _TYPES.get(str(kind), Recipe).model_validate(given)


_TYPES: dict[str, type[Recipe | GateRecipe | MixtureRecipe]] = {
    "edm": Recipe,
    "vdm": Recipe,
    "classifier": Recipe,
    "gate": GateRecipe,
    "mixture": MixtureRecipe,
}


AnyRecipe = Annotated[Recipe | GateRecipe | MixtureRecipe, WrapValidator(_by_type)]
"""A recipe of any type."""
