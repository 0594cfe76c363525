"""What a spec may say: frozen models that forbid unknown keys."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from snrouter.data.slices import Slice
from snrouter.errors import suggestion
from snrouter.gamma import POSITION_SCHEMA, Gamma
from snrouter.recipe import AnyRecipe


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AnyComponent(BaseModel):
    """A plugin by name, and its arguments; `key` says which key holds the name."""

    model_config = ConfigDict(frozen=True, extra="allow")

    key: ClassVar[str]

    @property
    def name(self) -> str:
        """The registered name, or `package:name`."""
        return str(getattr(self, self.key))

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class Component(AnyComponent):
    """An expert, policy, solver or dataset."""

    key: ClassVar[str] = "type"
    type: str


class MetricComponent(AnyComponent):
    """A metric."""

    key: ClassVar[str] = "metric"
    metric: str


class Bounds(_Model):
    """The run's interval of gamma."""

    gamma_min: Gamma = -13.3
    gamma_max: Gamma = 5.0


class Sweep(_Model):
    """Routes to compare: thresholds, ends of the interval, and experts alone."""

    switches: tuple[Any, ...] = Field(
        default=(),
        description="positions of the switch, e.g. [{eta: 0.1}, {eta: 0.2}]",
        json_schema_extra={"items": POSITION_SCHEMA},
    )
    gamma_min: tuple[Any, ...] = Field(
        default=(),
        description="lower ends of the interval, at each of which the switches, or without any the spec's route, are evaluated",
        json_schema_extra={"items": POSITION_SCHEMA},
    )
    gamma_max: tuple[Any, ...] = Field(
        default=(), description="upper ends, as gamma_min", json_schema_extra={"items": POSITION_SCHEMA}
    )
    singles: bool = Field(default=True, description="also evaluate each expert alone, on its own support")
    quality_tolerance: float = Field(
        default=0.0,
        ge=0,
        description="how far the best route's quality metric may exceed the single experts' lowest, on top of two paired errors",
    )


class Tune(_Model):
    """What `tune` may choose from, and on how much."""

    experts: tuple[str, ...] | None = Field(default=None, min_length=1, description="that may run; all of the spec's when left out")
    images: int | None = Field(default=None, ge=4, description="of the data, the first ones; all when left out")
    times: int = Field(default=64, ge=2, description="network calls an image and expert, as those of the vlb")
    seams: int = Field(default=4, ge=0, description="at most so many switches")
    exactly: bool = Field(default=False, description="exactly `seams` switches")
    order: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="experts from least noise to most, an order that routes keep; no others run"
    )
    above: dict[str, Any] = Field(
        default_factory=dict,
        description="where an expert must run: above this position",
        json_schema_extra={"additionalProperties": POSITION_SCHEMA},
    )
    gamma_min: tuple[Any, ...] = Field(
        default=(), description="lower ends of the interval to choose from", json_schema_extra={"items": POSITION_SCHEMA}
    )
    gamma_max: tuple[Any, ...] = Field(
        default=(), description="upper ends of the interval to choose from", json_schema_extra={"items": POSITION_SCHEMA}
    )
    quality: str | None = Field(
        default=None, description="the expert that candidates run more of; the high-noise one of the spec's route when left out"
    )
    candidates: int = Field(default=4, ge=0, description="routes with more of the quality expert than the likelihood asks for")
    exact_images: int = Field(default=100, ge=0, description="images whose exact-ODE bits/dim is set beside the bound")


class Publication(_Model):
    """Where published numbers were read."""

    title: str
    arxiv: str | None = Field(default=None, description='its number, in quotes, e.g. "2501.00000"')
    table: str | None = Field(default=None, description="which table or figure")


class PublishedValue(_Model):
    """One published number. What it says of its protocol must hold for a measured one to stand beside it."""

    route: str = Field(description="the route's label in results: an expert's name, or e.g. eta=0.4")
    metric: str = Field(description="the metric's name, e.g. bpd")
    value: FiniteFloat = Field(description="the number; several entries for one cell are all shown")
    standard_deviation: FiniteFloat | None = Field(default=None, ge=0, description="over repetitions")
    estimator: str | None = Field(default=None, description="of bpd: ode or vlb")
    dequantization: str | None = Field(default=None, description="of bpd by the ode")
    importance_samples: int | None = Field(default=None, ge=1, description="of bpd by the ode: K")
    divergence: str | None = Field(default=None, description="of bpd by the ode: hutchinson or exact")
    gamma_min: FiniteFloat | None = Field(default=None, description="start of the integral or bound")
    features: str | None = Field(default=None, description="of fid; inception stands for any name that begins with it")
    sampler: str | None = Field(
        default=None,
        description="type of the solver that drew the samples; needed to stand beside a measured number, but no matter for bpd",
    )
    n: int | None = Field(
        default=None, ge=1, description="images or samples; for a difference they must be as many, and of samples be stated"
    )
    note: str | None = Field(default=None, description="what to bear in mind; shown on the page")


class Published(_Model):
    """Published numbers, shown beside measured ones."""

    source: Publication
    rows: tuple[PublishedValue, ...] = Field(min_length=1)


class StudyModel(_Model):
    """One row of a study: the spec, changed, with what is trained or found for it."""

    train: str | tuple[str, ...] = Field(
        default=(), description="recipes to train, in this order; their experts and route replace the spec's"
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="keys to change first, as by --set, e.g. {train.mixture.entropy: 0}"
    )
    tune: bool = Field(default=False, description="find the route by `tune`")
    about: str | None = Field(default=None, description="a line on what it is, for tables")

    @property
    def recipes(self) -> tuple[str, ...]:
        """Names of what is trained, in order."""
        return (self.train,) if isinstance(self.train, str) else self.train


class Study(_Model):
    """Models and seeds that `study` compares."""

    models: dict[str, StudyModel] = Field(min_length=1, description="by name, in the order of tables")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        default=(0, 1, 2), min_length=1, description="of trainings, noise and samples: a cell for each model and seed"
    )
    baseline: str | None = Field(default=None, description="the model that relative gains are against; the first when left out")

    @model_validator(mode="after")
    def _check(self) -> Study:
        unfit = [name for name in self.models if not re.fullmatch(r"\w[\w.=+-]*", name)]
        if unfit:
            raise ValueError(f"models: {unfit[0]!r} names a folder; expected letters, digits and . = + - _, e.g. top-2")
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds: expected each once, got {list(self.seeds)}")
        if self.baseline is not None and self.baseline not in self.models:
            close = suggestion(self.baseline, self.models)
            raise ValueError(f"baseline: no model {self.baseline!r}{close}; there are {', '.join(self.models)}")
        return self

    @property
    def against(self) -> str:
        """The baseline's name."""
        return self.baseline or next(iter(self.models))


class Spec(_Model):
    """A declarative run."""

    experts: dict[str, Component] = Field(description="experts by name")
    route: Component = Field(description="which expert runs where")
    interval: Bounds = Field(default=Bounds(), description="the run's [gamma_min, gamma_max], which eta refers to")
    solver: Component = Field(default=Component(type="ode"), description="how samples are drawn")
    final: Literal["decode", "sample", "denoise", "none"] = Field(default="decode", description="from z_0 to an image")
    data: Component | None = Field(default=None, description="images that likelihoods are measured on")
    reference: Component | None = Field(default=None, description="what samples are compared with: the training set")
    shape: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, min_length=1, description="of a sample; the data's when left out"
    )
    condition: Literal["none", "labels"] = Field(
        default="none", description="labels: data images get their own labels, sample i a label drawn from the data's"
    )
    evaluate: tuple[MetricComponent, ...] = Field(default=(), description="metrics to compute")
    sweep: Sweep | None = Field(default=None, description="thresholds that `sweep` compares")
    tune: Tune = Field(default=Tune(), description="what `tune` may choose from, and on how much")
    published: Published | None = Field(default=None, description="numbers that reports show beside the measured ones")
    slices: dict[str, Slice] = Field(default_factory=dict, description="named parts of the data, which experts may be trained on")
    train: dict[str, AnyRecipe] = Field(
        default_factory=dict, description="recipes that `train` runs on the reference images, by name"
    )
    study: Study | None = Field(default=None, description="models and seeds that `study` compares")
    batch_size: int = Field(default=256, ge=1, description="images in a shard; adaptive solvers couple a shard's steps")
    precision: Literal["float32", "float64", "bfloat16"] = Field(
        default="float32",
        description="of networks and states; bfloat16: products and convolutions while drawing, states and likelihoods in float32",
    )
    logger: Literal["csv", "tensorboard"] | None = Field(
        default=None, description="a logger of Lightning that also gets the numbers, in `logs` of the run's folder"
    )
    residency: Literal["keep", "offload"] = Field(
        default="keep", description="offload: of the experts only the one that runs is on the accelerator"
    )
    seed: int = Field(default=0, ge=0, lt=2**64, description="every draw is keyed by (seed, purpose, index)")
