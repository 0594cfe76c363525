"""Profiles drawn from a generator: errors that differ between images as real ones do."""

import math

import torch
from torch import Tensor

from snrouter.search.profile import Profile

INTERVAL = (-12.0, 4.0)


def made_up(
    means: Tensor, images: int = 200, noise: float = 0.2, walk: float = 0.1, seed: int = 0, dimensions: int = 10
) -> Profile:
    """Experts "a", "b", ... with these mean errors [K, J] per dimension, each state with noise of its own.

    An image's errors are high or low as a whole (log-normal, a third), and every expert's drift off along gamma in a random walk.
    """
    generator = torch.Generator().manual_seed(seed)
    times = means.shape[1]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    edges = torch.linspace(*INTERVAL, times + 1, dtype=torch.float64)
    gamma = edges[:-1] + torch.rand(images, 1, generator=generator, dtype=torch.float64) * edges.diff()
    level = (0.3 * normal(images, 1) - 0.045).exp()
    errors = {
        chr(ord("a") + k): dimensions
        * mean
        * level
        * (1 + noise * normal(images, times) + walk * normal(images, times).cumsum(1) / math.sqrt(times))
        for k, mean in enumerate(means.double())
    }
    one = torch.ones(images, dtype=torch.float64)
    ends = {-12.0: 3 * one, -10.0: 4 * one, -8.0: 40 * one}
    return Profile(edges, gamma, errors, one, ends, dict.fromkeys(errors, times * one), dimensions)
