"""The Frechet distance: closed forms between known Gaussians, and a standard error that repeated sampling confirms."""

import math

import pytest
import torch

from snrouter.data.base import ImageData, from_levels
from snrouter.errors import CheckpointError, SpecError
from snrouter.experts.checkpoints import save_checkpoint
from snrouter.experts.networks.classifier import Classifier
from snrouter.experts.networks.unet import UNet
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import Context
from snrouter.metrics.frechet import Frechet, frechet_distance
from snrouter.metrics.likelihood.estimate import standard_error
from snrouter.solvers.ode import ODE


def normal(n: int, dim: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(mean: torch.Tensor, factor: torch.Tensor, n: int = 50, seed: int = 0) -> torch.Tensor:
    """Features whose sample mean and covariance (n - 1) are exactly `mean` and factor factor^T."""
    centred = normal(n, len(mean), seed) - normal(n, len(mean), seed).mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(centred.T.cov()), centred.T, upper=False).T
    return white @ factor.T + mean


def test_it_is_the_closed_form_between_gaussians_that_commute():
    """|m - m'|^2 + sum (s - s')^2 for standard deviations s, s' along common axes, here turned by one rotation."""
    turn = torch.linalg.qr(normal(4, 4, seed=9)).Q
    means = torch.tensor([[0.0, 1.0, -0.5, 2.0], [0.3, 1.0, 0.5, 1.0]], dtype=torch.float64)
    spreads = torch.tensor([[1.0, 0.5, 2.0, 0.1], [1.5, 0.5, 1.0, 0.3]], dtype=torch.float64)
    ours, reference = (with_moments(m, turn @ torch.diag(s), seed=i) for i, (m, s) in enumerate(zip(means, spreads, strict=True)))
    wanted = float((means[0] - means[1]).square().sum() + (spreads[0] - spreads[1]).square().sum())
    assert frechet_distance(ours, reference)[0] == pytest.approx(wanted, rel=1e-9)


def test_it_is_the_closed_form_between_gaussians_that_do_not_commute():
    """In two dimensions tr sqrt(C C') = sqrt(tr(C C') + 2 sqrt(det C C'))."""
    factors = normal(2, 4, seed=3).reshape(2, 2, 2)
    zero = torch.zeros(2, dtype=torch.float64)
    C, D = (factor @ factor.T for factor in factors)
    cross = math.sqrt(float((C @ D).trace()) + 2 * math.sqrt(float(C.det() * D.det())))
    ours, reference = (with_moments(zero, factor, seed=i) for i, factor in enumerate(factors))
    wanted = float(C.trace() + D.trace()) - 2 * cross
    assert not torch.allclose(C @ D, D @ C)
    assert frechet_distance(ours, reference)[0] == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(reference, ours)[0] == pytest.approx(wanted, rel=1e-9)


def test_of_a_set_to_itself_it_is_zero_and_covariances_may_be_singular():
    features = normal(30)
    assert frechet_distance(features, features)[0] == pytest.approx(0, abs=1e-12)
    flat = torch.cat([features, features[:, :1]], 1)  # rank 4 of 5
    value, influence = frechet_distance(flat, flat + 1)
    assert value == pytest.approx(5, rel=1e-6)
    assert bool(torch.isfinite(influence).all())


def test_the_influence_is_the_derivative_of_the_distance_in_a_samples_weight():
    """Repeating sample i once moves the distance by influence_i / n, to first order; influences have mean zero."""
    ours, reference = normal(400) @ torch.diag(torch.tensor([1.0, 0.5, 1.5, 0.8], dtype=torch.float64)) + 0.3, normal(300, seed=1)
    value, influence = frechet_distance(ours, reference)
    assert float(influence.mean()) == pytest.approx(0, abs=0.01 * float(influence.std()))
    moved = torch.tensor([frechet_distance(torch.cat([ours, ours[i : i + 1]]), reference)[0] - value for i in range(40)])
    correlation = float(torch.corrcoef(torch.stack([moved.double(), influence[:40]]))[0, 1])
    assert correlation > 0.999
    slope = float((moved * influence[:40]).sum() / influence[:40].square().sum())
    assert slope == pytest.approx(1 / 400, rel=0.03)


def test_its_standard_error_is_the_spread_over_repeated_sampling():
    """300 sets of 400 samples against one reference: the mean of the reported errors is the spread of the distances within 15%.

    The standard deviation of 300 repeats is itself known to 4%.
    """
    scale = torch.diag(torch.tensor([1.3, 0.7, 1.0, 0.4], dtype=torch.float64))
    reference = normal(2000, seed=10_000)
    values, errors = [], []
    for seed in range(300):
        value, influence = frechet_distance(normal(400, seed=seed) @ scale + 0.2, reference)
        values.append(value)
        errors.append(standard_error(influence))
    spread = float(torch.tensor(values).std())
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.15)


class TestMetric:
    """The metric of a spec, with a classifier's features."""

    @pytest.fixture
    def checkpoint(self, tmp_path):
        torch.manual_seed(0)
        path = tmp_path / "classifier.safetensors"
        config = {"type": "classifier", "channels": 8, "features": 4}
        save_checkpoint(path, Classifier(channels=8, features=4), {"network": config})
        return path

    @pytest.fixture
    def context(self):
        pixels = torch.randint(17, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        reference = ImageData(pixels, 17, None, "random")
        return Context(GammaInterval(-8.0, 4.0), ODE(), None, reference, 0)

    def test_it_is_the_distance_of_features_over_the_first_samples(self, checkpoint, context):
        pixels = torch.randint(5, 17, (50, 1, 8, 8), generator=torch.Generator().manual_seed(1))
        images = from_levels(pixels, 17)
        metric = Frechet(checkpoint, samples=40)
        assert metric.count(context) == 40
        summary = metric.summarise(context, {"images": images})
        torch.manual_seed(0)
        network = Classifier(channels=8, features=4).double().eval()
        with torch.no_grad():
            ours, reference = (network.features(part.double()) for part in (images[:40], context.reference.images()))
        value, influence = frechet_distance(ours, reference)
        assert summary.value == pytest.approx(value)
        assert summary.standard_error == pytest.approx(float(influence.std()) / math.sqrt(40))
        torch.testing.assert_close(summary.influence, influence)
        assert summary.columns == {"features": "classifier"}
        assert summary.protocol["reference_n"] == 60
        assert summary.protocol["reference_sha256"] == context.reference.content_hash()

    def test_fewer_than_two_samples_or_no_reference_are_refused(self, checkpoint, context):
        with pytest.raises(SpecError, match="samples: expected at least 2"):
            Frechet(checkpoint, samples=1).count(context)
        with pytest.raises(SpecError, match="needs the spec's `reference`"):
            Frechet(checkpoint).summarise(context._replace(reference=None), {"images": torch.zeros(3, 1, 8, 8)})

    def test_features_of_another_network_are_refused(self, tmp_path, context):
        path = tmp_path / "unet.safetensors"
        save_checkpoint(path, UNet(channels=(8,)), {"network": {"type": "unet", "channels": [8]}})
        with pytest.raises(CheckpointError, match="features need a classifier, got 'unet'"):
            Frechet(path).summarise(context, {"images": torch.zeros(3, 1, 8, 8)})
