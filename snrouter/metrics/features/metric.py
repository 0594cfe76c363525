"""What every metric in features shares: which network finds them, in which file, with which hash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import PlainValidator, WithJsonSchema
from torch import nn

from snrouter.data.base import ImageData
from snrouter.draws import Draws
from snrouter.errors import SpecError, suggestion
from snrouter.experts.checkpoints import check_sha256
from snrouter.metrics.base import Context, SampleMetric
from snrouter.metrics.features.base import Extractor, What
from snrouter.metrics.features.module import ModuleFeatures
from snrouter.metrics.references import check_size

FEW = 10_000
"""Images below which a row says that their number moves the value."""

Kind = Literal["classifier", "torchscript", "inception"]

_HOMES = {
    "classifier": "snrouter.metrics.features.classifier:ClassifierFeatures",
    "torchscript": "snrouter.metrics.features.torchscript:TorchScriptFeatures",
    "inception": "snrouter.metrics.features.inception:InceptionFeatures",
}


def _known(features: Any) -> Any:
    """A kind's name, or a network or extractor given in Python."""
    if features in _HOMES if isinstance(features, str) else isinstance(features, (nn.Module, Extractor)):
        return features
    close = suggestion(features, _HOMES) if isinstance(features, str) else ""
    raise ValueError(f"expected one of {', '.join(_HOMES)}, got {features!r:.60}{close}")


Features = Annotated[Kind | nn.Module | Extractor, PlainValidator(_known), WithJsonSchema({"enum": list(get_args(Kind))})]
"""The argument `features` of a metric: a kind by name; in Python also a network or an extractor."""


def extractor(features: Kind | nn.Module | Extractor, checkpoint: Path | None = None, sha256: str | None = None) -> Extractor:
    """The extractor that a metric's arguments name; one that is read from a file is read once.

    Args:
        features: kind by name, or a network, or an extractor itself.
        checkpoint: the file of a kind by name.
        sha256: what the file must hash to; where it is not given, a published file is known by its name.

    Raises:
        CheckpointError: when the file is missing, has another hash, or is not what `features` says.
        SpecError: when a kind by name comes without a checkpoint, or a network with one.
    """
    if not isinstance(features, str):
        if checkpoint is not None or sha256 is not None:
            raise SpecError("checkpoint: it belongs to features by name; leave it out for a network given as such")
        return features if isinstance(features, Extractor) else ModuleFeatures(features)
    if checkpoint is None:
        raise SpecError(f"features: {features} are read from a file; add e.g. checkpoint: {features}.{_SUFFIX[features]}")
    return _read(features, checkpoint, sha256, checkpoint.stat().st_mtime_ns if checkpoint.is_file() else 0)


_SUFFIX = {"classifier": "safetensors", "torchscript": "pt", "inception": "safetensors"}

_PUBLISHED = {"inception": ("6726825d",)}
"""How the hashes of published files begin, as their names end."""


@lru_cache(maxsize=4)
def _read(kind: str, checkpoint: Path, sha256: str | None, modified: int) -> Extractor:
    check_sha256(checkpoint, sha256, _PUBLISHED.get(kind, ()))
    module, _, name = _HOMES[kind].partition(":")
    home: Callable[[Path], Extractor] = getattr(import_module(module), name)
    return home(checkpoint)


@dataclass(frozen=True)
class FeatureMetric(SampleMetric):
    """A metric of samples that is measured in features.

    Args:
        checkpoint: file of the network, for features by name.
        samples: how many samples.
        features: "classifier", "torchscript" or "inception"; in Python also a network or an `Extractor`.
        sha256: what the checkpoint must hash to.

    Attributes:
        what: it is measured in.
    """

    what: ClassVar[What] = "features"

    checkpoint: Path | None = None
    samples: int = 2000
    features: Features = "classifier"
    sha256: str | None = None

    def extractor(self) -> Extractor:
        """What finds the features.

        Raises:
            SpecError: as the function `extractor`.
        """
        return extractor(self.features, self.checkpoint, self.sha256)

    def extracts(self) -> tuple[Extractor, What]:
        """Features, or what else it is measured in."""
        return self.extractor(), self.what

    def count(self, context: Context) -> int:
        """The samples asked for, once the network could be read and takes such images."""
        if self.samples < 2:
            raise SpecError(f"samples: expected at least 2, got {self.samples}")
        self.width(context)
        return self.samples

    def width(self, context: Context) -> int | None:
        """How many numbers the network finds in an image, tried on noise; None where nothing tells an image's shape."""
        source = context.reference or context.data
        shape = context.shape or (source.shape if source else None)
        network = self.extractor()
        return None if shape is None else network.width(2 * Draws(0).uniform("trial", range(2), shape).float() - 1, self.what)


@dataclass(frozen=True)
class ReferenceMetric(FeatureMetric):
    """A metric in features that compares samples with reference images, each with each.

    Args:
        checkpoint: file of the network, for features by name.
        samples: how many samples.
        features: "classifier", "torchscript" or "inception"; in Python also a network or an `Extractor`.
        sha256: what the checkpoint must hash to.
        reference_samples: compare with so many reference images, drawn by the run's seed; with all when left out.
    """

    reference_samples: int | None = None

    def count(self, context: Context) -> int:
        """The samples asked for, once the network could be read and the reference is known to be there and not too large."""
        available = len(reference_of(context))
        if self.reference_samples is not None and not 2 <= self.reference_samples <= available:
            raise SpecError(
                f"reference_samples: expected 2 to {available}, the size of the reference; got {self.reference_samples}"
            )
        if width := self.width(context):
            check_size(self.reference_samples or available, width)
        return super().count(context)

    def compared(self, context: Context) -> tuple[Extractor, ImageData, int | None, int]:
        """What finds features, the reference, how many of its images are compared, and the seed that draws them."""
        return self.extractor(), context.need("reference"), self.reference_samples, context.seed


def reference_of(context: Context) -> ImageData:
    """The reference.

    Raises:
        SpecError: when there is none, or a single image, which has no spread.
    """
    reference = context.need("reference")
    if len(reference) < 2:
        raise SpecError(f"reference: {reference.name} has a single image; expected at least 2")
    return reference
