"""Shared test problems, each with its exact solution, and one torch thread for all."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from snrouter.data.base import from_levels
from snrouter.experts.base import Expert, Prediction
from snrouter.experts.gaussian import Gaussian
from snrouter.experts.gaussian_mixture import GaussianMixture
from snrouter.experts.generic import wrap
from snrouter.experts.network import NetworkExpert
from snrouter.experts.parameterization import parameterization
from snrouter.gamma import alpha, edm_sigma, interval, sigma

torch.set_num_threads(1)
settings.register_profile("snrouter", deadline=None, derandomize=True, database=None)
settings.load_profile("snrouter")

SIGMA_DATA = 0.5


class OracleNetwork(nn.Module):
    """A network without weights that answers an exact denoiser's F, whatever the parameterization that reads it.

    Args:
        oracle: the exact denoiser, in the network's own pixels.
        prediction: what F is.
    """

    def __init__(self, oracle: Expert, prediction: str) -> None:
        super().__init__()
        self.oracle = oracle
        self.prediction = prediction

    def forward(self, scaled: Tensor, gamma: Tensor, condition: Tensor | None) -> Tensor:
        """F in the dtype of its input, computed in float64; its clock is gamma."""
        gamma = gamma.double()

        def rows(value: Tensor) -> Tensor:
            return value.reshape(-1, *(1 for _ in scaled.shape[1:]))

        z = scaled.double() / rows(parameterization(self.prediction)(gamma).c_in)
        eps, x, _ = self.oracle(z, gamma)
        al, si = rows(alpha(gamma)), rows(sigma(gamma))
        theta = (rows(edm_sigma(gamma)) / SIGMA_DATA).atan()
        F = {
            "eps": lambda: eps,
            "x": lambda: x,
            "v": lambda: al * eps - si * x,
            "score": lambda: -eps / si,
            "flow": lambda: eps - x,
            "ve": lambda: -eps,
            "edm": lambda: theta.sin() * x / SIGMA_DATA - theta.cos() * eps,
        }[self.prediction]()
        return F.to(scaled)


class Recorder(Expert):
    """An expert that notes what it is asked."""

    def __init__(self, expert: Expert) -> None:
        super().__init__(expert.support, expert.name)
        self.expert = expert
        self.z: list[Tensor] = []
        self.gamma: list[Tensor] = []
        self.condition: list[Tensor | None] = []

    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Prediction:
        """Note and pass on."""
        self.z.append(z.detach().clone())
        self.gamma.append(gamma.clone())
        self.condition.append(condition)
        return self.expert.predict(z, gamma, condition)


class Linear(Expert):
    """eps_hat = slope z, element by element, so that its arithmetic does not depend on the batch."""

    def __init__(self, slope: float = 0.5, support: tuple[float, float] = (-20.0, 20.0), name: str = "linear") -> None:
        super().__init__(interval(support), name)
        self.slope = slope

    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Prediction:
        """Noise, and the image that goes with it."""
        self.require(float(gamma.min()), float(gamma.max()))
        al, si = (f(gamma).to(z).reshape(-1, *(1 for _ in z.shape[1:])) for f in (alpha, sigma))
        eps = self.slope * z
        return Prediction(eps, (z - si * eps) / al, {"": len(z)})


class Oracles:
    """Makes test problems; every maker is deterministic in its arguments."""

    Recorder = Recorder
    Linear = Linear
    Network = OracleNetwork

    @staticmethod
    def gaussian(shape: Sequence[int] = (6,), seed: int = 0, scale: float = 1.0, spread: float = 0.4, **arguments) -> Gaussian:
        """Data N(m, C) with a full covariance, about the size of an image's pixels; scaled by `scale`."""
        count = math.prod(shape)
        generator = torch.Generator().manual_seed(seed)
        mean = 0.3 * torch.randn(count, generator=generator, dtype=torch.float64)
        factor = torch.randn(count, count, generator=generator, dtype=torch.float64) / math.sqrt(count)
        covariance = spread**2 * (factor @ factor.T + 0.1 * torch.eye(count, dtype=torch.float64))
        return Gaussian(scale * mean.reshape(shape), scale**2 * covariance, **arguments)

    @staticmethod
    def mixture(shape: Sequence[int] = (6,), seed: int = 0, narrow: float = 0.15, **arguments) -> GaussianMixture:
        """A factorised mixture of three Gaussians in each dimension."""
        generator = torch.Generator().manual_seed(seed)

        def draw() -> Tensor:
            return torch.rand(3, *shape, generator=generator, dtype=torch.float64)

        return GaussianMixture(0.2 + draw(), 1.4 * draw() - 0.7, narrow * (1 + draw()), **arguments)

    @staticmethod
    def wrapped(oracle: Callable[..., Expert] | Expert, prediction: str, **arguments) -> NetworkExpert:
        """An exact denoiser written as a network with that prediction."""
        return wrap(OracleNetwork(oracle, prediction), prediction, (-20.0, 20.0), name=prediction, **arguments)

    @staticmethod
    def draw(oracle: Gaussian, n: int, seed: int = 0) -> Tensor:
        """Data of a Gaussian oracle, float64 [n, *shape]."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, len(oracle.eigenvalues), generator=generator, dtype=torch.float64)
        return (noise * oracle.eigenvalues.sqrt() @ oracle.eigenvectors.T).reshape(n, *oracle.mean.shape) + oracle.mean

    @staticmethod
    def images(n: int, shape: Sequence[int] = (6,), levels: int = 256, seed: int = 0, dtype=torch.float64) -> Tensor:
        """Images on their levels, of all levels alike."""
        generator = torch.Generator().manual_seed(seed)
        return from_levels(torch.randint(levels, (n, *shape), generator=generator), levels, dtype)

    @staticmethod
    def order(steps: Sequence[int], errors: Sequence[float]) -> float:
        """Slope of log error on log step length, by least squares."""
        return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])

    @staticmethod
    def bits(nats: Tensor, dimensions: int) -> Tensor:
        """Nats an image as bits/dim."""
        return nats / (dimensions * math.log(2))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache of the tests' own; none of them reads the user's, or leaves anything there."""
    os.environ["SNROUTER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def oracles() -> type[Oracles]:
    """Makers of test problems with exact solutions."""
    return Oracles


@pytest.fixture(scope="session")
def gaussian(oracles) -> Gaussian:
    """A Gaussian of six dimensions."""
    return oracles.gaussian()


@pytest.fixture(scope="session")
def mixture(oracles) -> GaussianMixture:
    """A factorised mixture of six dimensions."""
    return oracles.mixture()


@pytest.fixture(scope="session")
def pair(oracles) -> Mapping[str, Gaussian]:
    """Two different exact denoisers, to route between."""
    return {"low": oracles.gaussian(seed=1, name="low"), "high": oracles.gaussian(seed=2, spread=0.6, name="high")}
