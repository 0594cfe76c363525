"""The `nearest_neighbour` metric: how far samples are from the training images, against memorisation and leakage.

The distance of two images is the root mean square of their difference, over pixels in [-1, 1] or over features. Unseen images, the
spec's `data` without those that are also in `reference`, are as far from the training images as an honest sample should be.

An image is a near copy when it is three times as near to its nearest training image as to the tenth nearest. Among honest images
of m effective dimensions that happens with probability 9 / 3^m. The tenth stands in for the second, beside which a copy of an image
that the training set holds twice would go unseen.

Source: Yoon et al. 2023, "Diffusion probabilistic models generalize when they fail to memorize", for a third of the second.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snrouter.data.base import ImageData, to_levels
from snrouter.data.overlap import identical
from snrouter.errors import SpecError
from snrouter.metrics import references
from snrouter.metrics.base import Context, SampleMetric, Summary
from snrouter.metrics.features.base import Extractor, found
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

BLOCK, BLOCK_NUMBERS = 1024, 2**23
"""Samples that are looked at together, and the most numbers of the training images beside them."""


@dataclass(frozen=True)
class NearestNeighbour(SampleMetric):
    """Mean distance of samples to their nearest image of the spec's `reference`.

    Args:
        samples: how many samples.
        features: what distances are measured in, pixels when left out: "classifier", "torchscript" or "inception" with its
            `checkpoint`; in Python also a network or an `Extractor`.
        checkpoint: file of the network, for features by name.
        sha256: what the checkpoint must hash to.
    """

    title = "nearest training image"

    samples: int = 2000
    features: Features | None = None
    checkpoint: Path | None = None
    sha256: str | None = None

    def count(self, context: Context) -> int:
        """The samples asked for, once the network could be read."""
        if self.samples < 1:
            raise SpecError(f"samples: expected at least 1, got {self.samples}")
        reference, data = context.need("reference"), context.data
        if data is not None and data.shape != reference.shape:
            raise SpecError(f"data and reference: images {list(data.shape)} and {list(reference.shape)}; expected one shape")
        self._extractor()
        return self.samples

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """The mean over the first samples; beside it, copies among them, and among the data."""
        reference, network = context.need("reference"), self._extractor()
        images = measured["images"][: self.samples]
        rows = _of_tensor(images.cpu().float().flatten(1) if network is None else found(measured, network, count=self.samples))
        near = nearest(rows, _of_data(reference, network))
        same = identical(_on_levels(images, reference), reference)
        value = float(near.distance.mean())
        columns: dict[str, Any] = {
            "features": "pixels" if network is None else network.name,
            "exact_copies": int(same.sum()),
            "near_copies": int((near.is_copy & ~same).sum()),
        }
        protocol = {
            **(network.protocol if network else {}),
            **references.told_reference(reference),
            "distance": f"root mean square over {'features' if network else 'pixels in [-1, 1]'}",
            "near": f"under {NEAR:.3g} of the distance to neighbour {NEIGHBOURS}",
        }
        if context.data is not None:
            unseen = _unseen(context.data, reference, network)
            columns |= unseen.columns(near.distance, same)
            protocol |= {"unseen": context.data.name, "unseen_sha256": context.data.content_hash()}
            protocol |= {"copies": f"as near as {CLOSE:.0%} of the unseen images"}
        shown = near.ratio.argsort(stable=True)[:SHOWN]
        beside = reference.images(near.which[shown].tolist())
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


class Rows(NamedTuple):
    """Images as rows of numbers.

    Attributes:
        n: how many.
        width: numbers in each.
        read: some of them, [..., width], on the CPU.
    """

    n: int
    width: int
    read: Callable[[slice | list[int]], Tensor]


def nearest(rows: Rows, among: Rows) -> Nearest:
    """The nearest of one set to each of another.

    Squared distances are |x|^2 + |y|^2 - 2 x.y in float64, block by block; that of the nearest is then taken anew from the
    difference, so that it is exact for copies too.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kept = min(NEIGHBOURS, among.n)
    squares = torch.full((rows.n, kept), torch.inf, dtype=torch.float64)
    indices = torch.zeros(rows.n, kept, dtype=torch.long)
    for theirs in _blocks(among.n, max(1, min(2 * BLOCK, BLOCK_NUMBERS // among.width))):
        y = among.read(theirs).to(device, torch.float64)
        y_square = y.square().sum(1)
        for ours in _blocks(rows.n, BLOCK):
            x = rows.read(ours).to(device, torch.float64)
            square = x.square().sum(1, keepdim=True) + y_square - 2 * x @ y.T
            best = square.topk(min(kept, len(y)), largest=False)
            found = torch.cat([squares[ours], best.values.cpu()], 1)
            places = torch.cat([indices[ours], best.indices.cpu() + theirs.start], 1)
            squares[ours], order = found.topk(kept, largest=False)
            indices[ours] = places.gather(1, order)
    which = indices[:, 0]
    parts = ((rows.read(part).double(), among.read(which[part].tolist()).double()) for part in _blocks(rows.n, BLOCK))
    distance = torch.cat([(x - y).square().mean(1).sqrt() for x, y in parts])
    last = (squares[:, -1].clamp(min=0) / among.width).sqrt()
    return Nearest(distance, which, torch.where(distance > 0, distance / last, 0.0))


def _unseen(data: ImageData, reference: ImageData, network: Extractor | None) -> Unseen:
    """The data's side, found once a process: every route of a sweep has the same."""
    key = (network.key if network else "pixels", data.content_hash(), reference.content_hash())
    if key in _UNSEEN:
        return _UNSEEN[key]
    same = identical(data, reference)
    near = nearest(_of_data(data, network), _of_data(reference, network))
    unseen = Unseen(near.distance[~same], int(same.sum()), int((near.is_copy & ~same).sum()))
    if key[0] is not None:
        _UNSEEN[key] = unseen
    return unseen


_UNSEEN: dict[tuple[str | None, str, str], Unseen] = {}


def _of_tensor(values: Tensor) -> Rows:
    return Rows(len(values), values.shape[1], lambda which: values[which])


def _of_data(data: ImageData, network: Extractor | None) -> Rows:
    if network is not None:
        return _of_tensor(references.features(network, data))
    return Rows(len(data), data.pixels[0].numel(), lambda which: data.images(which).flatten(1))


def _on_levels(images: Tensor, reference: ImageData) -> ImageData:
    """Samples as level indices of the reference's kind."""
    levels = reference.levels
    parts = (part if levels is None else to_levels(part, levels) for part in torch.split(images.cpu(), BLOCK))
    return ImageData(torch.cat([part.to(reference.pixels.dtype) for part in parts]), levels, None, "samples")


def _blocks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
