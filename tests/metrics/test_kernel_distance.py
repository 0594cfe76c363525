"""The kernel distance: torchmetrics' number over all pairs, and a standard error that repeated sampling confirms."""

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from snrouter.data.base import ImageData
from snrouter.gamma import GammaInterval
from snrouter.metrics import blocks, references
from snrouter.metrics import kernel_distance as module
from snrouter.metrics.base import Context
from snrouter.metrics.features.module import ModuleFeatures
from snrouter.metrics.kernel_distance import KernelDistance, kernel_distance, mean_within
from snrouter.metrics.likelihood.estimate import standard_error
from snrouter.solvers.ode import ODE


def normal(n: int, dim: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all extracted features")
def test_it_is_that_of_torchmetrics_with_one_subset_of_all():
    features, reference = 1.2 * normal(150, 6) + 0.3, normal(150, 6, seed=1)
    theirs = KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=150)
    theirs.update(reference, real=True)
    theirs.update(features, real=False)
    assert kernel_distance(features, reference)[0] == pytest.approx(float(theirs.compute()[0]), rel=1e-9)


def test_sets_of_other_sizes_in_blocks_are_the_sum_over_pairs(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 7)
    x, y = normal(20) + 0.3, normal(33, seed=1)
    within = [(kernel(z, z).sum() - kernel(z, z).trace()) / (len(z) * (len(z) - 1)) for z in (x, y)]
    assert kernel_distance(x, y)[0] == pytest.approx(float(sum(within) - 2 * kernel(x, y).mean()), rel=1e-12)


def test_it_has_no_bias():
    """Between sets of one distribution its mean is zero, whatever their size; 400 repeats of 20."""
    values = torch.tensor([kernel_distance(normal(20, seed=2 * i), normal(20, seed=2 * i + 1))[0] for i in range(400)])
    assert abs(float(values.mean())) < 3 * standard_error(values)
    assert float(values.min()) < 0


def test_its_standard_error_is_the_spread_over_repeated_sampling():
    """300 sets of 200 samples against one reference; the spread of 300 repeats is itself known to 4%."""
    reference = normal(500, seed=10_000)
    within = mean_within(reference)
    values, errors = [], []
    for seed in range(300):
        value, influence = kernel_distance(1.2 * normal(200, seed=seed) + 0.3, reference, within)
        values.append(value)
        errors.append(standard_error(influence))
    assert sum(errors) / len(errors) == pytest.approx(float(torch.tensor(values).std()), rel=0.15)


def test_the_references_own_half_is_computed_once_for_all_routes(monkeypatch, tmp_path):
    monkeypatch.setenv("SNROUTER_CACHE", str(tmp_path))
    monkeypatch.setattr(references, "_MADE", {})
    asked: list[int] = []
    monkeypatch.setattr(module, "mean_within", lambda features: asked.append(len(features)) or mean_within(features))
    pixels = normal(50, seed=1).reshape(50, 1, 2, 2).float()
    context = Context(GammaInterval(-8.0, 4.0), ODE(), None, ImageData(pixels, None, None, "noise"), 0)
    metric = KernelDistance(features=ModuleFeatures(nn.Flatten(), key="pixels"), samples=30)
    within = mean_within(pixels.flatten(1))
    for seed in (2, 3):
        images = normal(30, seed=seed).reshape(30, 1, 2, 2).float()
        wanted, influence = kernel_distance(images.flatten(1), pixels.flatten(1), within)
        found = metric.summarise(context, {"images": images})
        assert found.value == pytest.approx(wanted, rel=1e-12)
        torch.testing.assert_close(found.influence, influence)
    assert asked == [50]
