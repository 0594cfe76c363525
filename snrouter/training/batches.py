"""Batches: images in an order that the seed alone decides, so that it is known at any step, and divided among processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, RandomSampler, Sampler

from snrouter.data.base import ImageData
from snrouter.recipe import Optimisation


class Images(Dataset[tuple[Tensor, ...]]):
    """Images at the bin centres, made batch by batch from their levels; asked by lists of indices."""

    def __init__(self, data: ImageData) -> None:
        self.data = data

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, ...]:
        images = self.data.images(indices)
        return (images,) if self.data.labels is None else (images, self.data.labels[indices])


class Shuffled(Sampler[list[int]]):
    """Which images make each batch, keyed by the seed, and of those a process's own; of batches before `start` nothing is made.

    Args:
        recipe: how many batches of how many images of each part, and the seed.
        parts: indices of images.
        start: batches that are done.
        rank: of the process.
        world: processes.
    """

    def __init__(self, recipe: Optimisation, parts: Sequence[Tensor], start: int, rank: int, world: int) -> None:
        self.recipe = recipe
        self.parts = parts
        self.start = start
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        return self.recipe.steps  # those that are done, too: Lightning counts them

    def __iter__(self) -> Iterator[list[int]]:
        orders = [self._order(number, part) for number, part in enumerate(self.parts)]
        for batches in islice(zip(*orders, strict=True), self.start, None):
            yield [index for batch in batches for index in batch[self.rank :: self.world]]

    def _order(self, number: int, part: Tensor) -> Iterator[list[int]]:
        order = RandomSampler(
            range(len(part)),  # only its length is read
            num_samples=self.recipe.steps * self.recipe.batch_size,
            generator=torch.Generator().manual_seed(self.recipe.seed + number),
        )
        for batch in BatchSampler(order, self.recipe.batch_size, drop_last=True):
            yield part[batch].tolist()
