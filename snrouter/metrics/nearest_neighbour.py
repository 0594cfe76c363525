"""The `nearest_neighbour` metric: how far samples are from the training images, against memorisation and leakage.

The distance of two images is the root mean square of their difference, over pixels in [-1, 1] or over features. Unseen images, the
spec's `data` without those that are also in `reference`, are as far from the training images as an honest sample should be.

An image is a near copy when it is three times as near to its nearest training image as to the tenth nearest. Among honest images
of m effective dimensions that happens with probability 9 / 3^m. Training images that are alike in every value count once, and the
tenth stands in for the second, beside which a copy of an image that the training set holds twice in nearly the same form would go
unseen.

Source: Yoon et al. 2023, "Diffusion probabilistic models generalize when they fail to memorize", for a third of the second.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snrouter.data.base import ImageData, to_levels
from snrouter.data.overlap import distinct, identical
from snrouter.errors import SpecError
from snrouter.metrics import blocks, references
from snrouter.metrics.base import Context, SampleMetric, Summary
from snrouter.metrics.features.base import Extractor, What, found
from snrouter.metrics.features.metric import Features, extractor
from snrouter.metrics.likelihood.estimate import standard_error

NEIGHBOURS = 10
"""The neighbour whose distance a near copy's is compared with, or the last of fewer training images."""

NEAR = 1 / 3
"""A near copy's distance over that neighbour's."""

CLOSE = 0.01
"""The part of unseen images that are as near as what counts as `copies`."""

SHOWN = 8
"""Samples that are shown beside their nearest training image."""


@dataclass(frozen=True)
class NearestNeighbour(SampleMetric):
    """Mean distance of samples to their nearest image of the spec's `reference`.

    Args:
        samples: how many samples.
        features: what distances are measured in, pixels when left out: "classifier", "torchscript" or "inception" with its
            `checkpoint`; in Python also a network or an `Extractor`.
        checkpoint: file of the network, for features by name.
        sha256: what the checkpoint must hash to.
        reference_samples: compare with so many reference images, drawn by the run's seed; with all when left out. Exact copies are
            looked for among all.
    """

    title = "nearest training image"

    samples: int = 2000
    features: Features | None = None
    checkpoint: Path | None = None
    sha256: str | None = None
    reference_samples: int | None = None

    def count(self, context: Context) -> int:
        """The samples asked for, once the network could be read."""
        if self.samples < 1:
            raise SpecError(f"samples: expected at least 1, got {self.samples}")
        reference, data = context.need("reference"), context.data
        for name, shape in (("data", data.shape if data else None), ("samples", context.shape)):
            if shape not in (None, reference.shape):
                raise SpecError(f"{name} and reference: images {list(shape)} and {list(reference.shape)}; expected one shape")
        if self.reference_samples is not None and not 1 <= self.reference_samples <= len(reference):
            raise SpecError(
                f"reference_samples: expected 1 to {len(reference)}, the size of the reference; got {self.reference_samples}"
            )
        if network := self._extractor():
            references.check_size(self.reference_samples or len(reference), network.width(reference.images(slice(2))))
        return self.samples

    def extracts(self) -> tuple[Extractor, What] | None:
        """Features, unless it is measured in pixels."""
        network = self._extractor()
        return (network, "features") if network else None

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """The mean over the first samples; beside it, copies among them, and among the data."""
        reference, network = context.need("reference"), self._extractor()
        chosen = reference, self.reference_samples, context.seed
        images = measured["images"][: self.samples]
        rows = images.cpu().float().flatten(1) if network is None else found(measured, network, count=self.samples)
        among = _trained_on(network, *chosen)
        near = nearest(rows, among.rows)
        same = identical(_on_levels(images, reference), reference)
        value = float(near.distance.mean())
        columns: dict[str, Any] = {
            "features": "pixels" if network is None else network.name,
            "exact_copies": int(same.sum()),
            "near_copies": int((near.is_copy & ~same).sum()),
        }
        protocol = {
            **(network.protocol if network else {}),
            **references.told_reference(*chosen),
            "distance": f"root mean square over {'features' if network else 'pixels in [-1, 1]'}",
            "near": f"under {NEAR:.3g} of the distance to neighbour {NEIGHBOURS}, alike ones counted once",
        }
        if context.data is not None:
            unseen = _unseen(context.data, network, among, *chosen)
            columns |= unseen.columns(near.distance, same)
            protocol |= {"unseen": context.data.name, "unseen_sha256": context.data.content_hash()}
            protocol |= {"copies": f"as near as {CLOSE:.0%} of the unseen images"}
        shown = near.ratio.argsort(stable=True)[:SHOWN]
        beside = among.images.images(among.rows.places[near.which[shown]].tolist())
        return Summary(
            value=value,
            standard_error=standard_error(near.distance),
            influence=near.distance - value,
            columns=columns,
            protocol=protocol,
            pictures={"samples beside their nearest training images": torch.stack([images[shown].float().cpu(), beside], 1)},
        )

    def _extractor(self) -> Extractor | None:
        """What finds the features; None for pixels."""
        if self.features is not None:
            return extractor(self.features, self.checkpoint, self.sha256)
        if self.checkpoint is not None or self.sha256 is not None:
            raise SpecError("checkpoint: pixels need no network; leave it out, or name features, e.g. features: inception")
        return None


class Nearest(NamedTuple):
    """The nearest images of a set.

    Attributes:
        distance: to the nearest, float64 [n].
        which: the nearest's place in its set, [n].
        ratio: its distance over that of the tenth nearest, 0 where both are zero, [n].
    """

    distance: Tensor
    which: Tensor
    ratio: Tensor

    @property
    def is_copy(self) -> Tensor:
        """Whether it is a copy, exact or near: bool [n]."""
        return self.ratio < NEAR


class Unseen(NamedTuple):
    """What the data say without any sample: distances of the images that are not in the reference, and how many are."""

    distance: Tensor
    overlap_exact: int
    overlap_near: int

    def columns(self, distance: Tensor, same: Tensor) -> dict[str, Any]:
        """Columns of a row whose samples have these distances [n] and are exact copies where `same` [n]."""
        overlap = {"overlap_exact": self.overlap_exact, "overlap_near": self.overlap_near}
        if len(self.distance) == 0:
            return overlap
        close = distance <= torch.quantile(self.distance, CLOSE)
        return {
            "test_distance": float(self.distance.mean()),
            "test_standard_error": standard_error(self.distance),
            "copies": float((close | same).double().mean()),
            **overlap,
        }


@dataclass(frozen=True)
class Rows:
    """Some rows of features, or images as rows of pixels, read when they are asked for.

    Attributes:
        source: features [n, F], or images.
        places: which of them, [m].
    """

    source: Tensor | ImageData
    places: Tensor

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, which: slice | Tensor, /) -> Tensor:
        places = self.places[which]
        return self.source[places] if isinstance(self.source, Tensor) else self.source.images(places.tolist()).flatten(1)


class TrainedOn(NamedTuple):
    """Training images that samples are compared with, and rows of those that are distinct."""

    images: ImageData
    rows: Rows


def nearest(rows: Tensor | Rows, among: Tensor | Rows) -> Nearest:
    """The nearest of one set to each of another; its distance is taken from the difference, so that it is exact for copies too."""
    squares, which = blocks.nearest(rows, among, NEIGHBOURS)
    parts = torch.split(torch.arange(len(rows)), blocks.BLOCK)
    distance = torch.cat([(rows[part].double() - among[which[part, 0]].double()).square().mean(1).sqrt() for part in parts])
    last = (squares[:, -1].clamp(min=0) / rows[:1].shape[1]).sqrt()
    return Nearest(distance, which[:, 0], torch.where(distance > 0, distance / last, 0.0))


def _unseen(data: ImageData, network: Extractor | None, among: TrainedOn, reference: ImageData, n: int | None, seed: int) -> Unseen:
    """The data's side, found once a process: every route of a sweep has the same."""
    key = (network.key if network else "pixels", data.content_hash(), reference.content_hash(), n, seed)
    if key in _UNSEEN:
        return _UNSEEN[key]
    same = identical(data, reference)
    rows = Rows(references.features(network, data) if network else data, torch.arange(len(data)))
    near = nearest(rows, among.rows)
    unseen = Unseen(near.distance[~same], int(same.sum()), int((near.is_copy & ~same).sum()))
    if key[0] is not None:
        _UNSEEN[key] = unseen
    return unseen


_UNSEEN: dict[tuple[str | None, str, str, int | None, int], Unseen] = {}


def _trained_on(network: Extractor | None, reference: ImageData, n: int | None, seed: int) -> TrainedOn:
    """The reference, or n images of it drawn by the seed."""
    images = reference
    if n is not None:
        images = ImageData(reference.pixels[references.drawn(reference, n, seed)], reference.levels, None, reference.name)
    source = references.features(network, reference, n, seed) if network else images
    return TrainedOn(images, Rows(source, distinct(images)))


def _on_levels(images: Tensor, reference: ImageData) -> ImageData:
    """Samples as level indices of the reference's kind."""
    levels = reference.levels
    parts = (part if levels is None else to_levels(part, levels) for part in torch.split(images.cpu(), blocks.BLOCK))
    return ImageData(torch.cat([part.to(reference.pixels.dtype) for part in parts]), levels, None, "samples")
