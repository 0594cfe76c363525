"""The Frechet distance: closed forms between known Gaussians, and a standard error that repeated sampling confirms."""

import dataclasses
import hashlib
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import _compute_fid as torchmetrics_fid

from snrouter.data.base import ImageData, from_levels
from snrouter.errors import CheckpointError, DataError, SpecError
from snrouter.experts.checkpoints import save_checkpoint
from snrouter.experts.networks.classifier import Classifier
from snrouter.experts.networks.unet import UNet
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import Context
from snrouter.metrics.frechet import Frechet, frechet_distance
from snrouter.metrics.likelihood.estimate import standard_error
from snrouter.metrics.references import accumulate
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


@pytest.mark.parametrize(("dim", "n", "m"), [(16, 200, 300), (48, 20, 300), (48, 20, 30), (48, 300, 40), (48, 49, 300)])
def test_it_is_scipys_and_torchmetrics_and_nearer_to_the_truth_where_covariances_are_singular(dim, n, m):
    """The truth is the sum of singular values of the two centred matrices' product, no root of a covariance taken.

    The others take roots of eigenvalues that are zero but for rounding, which costs them 2e-8 here.
    """
    ours = normal(n, dim) @ normal(dim, dim, seed=1) / dim**0.5 + 0.1
    theirs = 1.3 * normal(m, dim, seed=2) @ normal(dim, dim, seed=3) / dim**0.5
    a, b = accumulate([ours]), accumulate([theirs])
    cross = torch.linalg.svdvals((ours - a.mean) @ (theirs - b.mean).T).sum() / math.sqrt((n - 1) * (m - 1))
    apart = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy())
    value = frechet_distance(ours, theirs)[0]
    assert value == pytest.approx(float(apart - 2 * cross), rel=1e-12)
    assert value == pytest.approx(float(apart) - 2 * root.trace().real, rel=1e-6)
    assert value == pytest.approx(float(torchmetrics_fid(a.mean, a.covariance, b.mean, b.covariance)), rel=1e-6)
    assert frechet_distance(ours, b)[0] == value


def test_sets_of_other_features_are_refused():
    with pytest.raises(SpecError, match="reference: of 3 features, the samples of 4"):
        frechet_distance(normal(9), normal(9, 3))


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

    def test_what_cannot_work_is_told_before_anything_is_drawn(self, checkpoint, context, tmp_path):
        with pytest.raises(SpecError, match="needs the spec's `reference`"):
            Frechet(checkpoint).count(context._replace(reference=None))
        with pytest.raises(DataError, match="no such file"):
            Frechet(checkpoint, statistics=tmp_path / "gone.npz").count(context)
        with pytest.raises(SpecError, match="reference: one has a single image; expected at least 2"):
            Frechet(checkpoint).count(context._replace(reference=ImageData(context.reference.pixels[:1], 17, None, "one")))

    def test_the_network_is_tried_on_the_samples_shape(self, checkpoint, context, tmp_path):
        np.savez(tmp_path / "seven.npz", mu=np.zeros(7), sigma=np.eye(7))
        seven = Frechet(checkpoint, statistics=tmp_path / "seven.npz")
        with pytest.raises(SpecError, match=r"seven\.npz: of 7 features, classifier finds 4; use its own"):
            seven.count(context)
        with pytest.raises(SpecError, match="of 7 features, classifier finds 4"):
            seven.count(context._replace(reference=None, shape=(1, 8, 8)))
        assert seven.count(context._replace(reference=None)) == 2000  # nothing tells a shape to try
        with pytest.raises(CheckpointError, match=r"features classifier: cannot take images \[2, 3, 16, 16\] \([^\n]+\)$"):
            Frechet(checkpoint).count(context._replace(shape=(3, 16, 16)))


class TestBlocks:
    """The metric over consecutive blocks of samples, pixels being features."""

    CONTEXT = Context(
        GammaInterval(-8.0, 4.0), ODE(), None, ImageData(normal(500, seed=9).reshape(500, 1, 2, 2), None, None, "x"), 0
    )

    @staticmethod
    def images(n: int, seed: int = 1) -> Tensor:
        return normal(n, seed=seed).reshape(n, 1, 2, 2).float() + 0.2

    def summary(self, n: int = 300, **arguments):
        return Frechet(features=nn.Flatten(), **arguments).summarise(self.CONTEXT, {"images": self.images(n)})

    def distances(self, n: int = 300, size: int = 100):
        reference = self.CONTEXT.reference.images().flatten(1)
        return [frechet_distance(part.flatten(1), reference) for part in torch.split(self.images(n), size)]

    def test_their_mean_has_the_influences_of_all(self):
        wanted = self.distances()
        found = self.summary(samples=100, repeats=3)
        assert found.value == pytest.approx(sum(value for value, _ in wanted) / 3, rel=1e-12)
        torch.testing.assert_close(found.influence, torch.cat([influence for _, influence in wanted]))
        assert found.columns["blocks"] == "mean of 3 × 100"

    def test_the_lowest_has_its_own_error_and_the_row_tells_all(self):
        wanted = self.distances()
        lowest = min(range(3), key=lambda i: wanted[i][0])
        found = self.summary(samples=100, repeats=3, take="minimum")
        assert found.value == wanted[lowest][0]
        assert found.standard_error == pytest.approx(standard_error(wanted[lowest][1]), rel=0.01)
        assert found.columns["distances"] == dict(zip(("0-99", "100-199", "200-299"), [v for v, _ in wanted], strict=True))
        assert found.columns["blocks"] == "minimum of 3 × 100"
        assert len(found.influence) == 300

    def test_the_error_of_the_difference_of_two_minima_is_that_of_their_blocks(self):
        """Where two routes have their lowest in different blocks, their errors are independent."""
        influence = self.summary(samples=100, repeats=3, take="minimum").influence
        other = influence.roll(100)
        assert standard_error(influence - other) == pytest.approx(2**0.5 * standard_error(influence), rel=0.01)

    def test_what_a_limit_leaves_is_measured(self):
        two = self.summary(n=250, samples=100, repeats=3, take="minimum")
        assert two.columns["distances"].keys() == {"0-99", "100-199"}
        assert two.columns["blocks"] == "minimum of 2 × 100"
        assert len(two.influence) == 200
        part = self.summary(n=70, samples=100, repeats=3)
        assert part.value == pytest.approx(self.distances(70)[0][0], rel=1e-12)
        assert part.columns == {"features": "Flatten", "blocks": "mean of 1 × 70", "distances": {"0-69": part.value}}

    def test_edms_protocol_by_name(self):
        metric = Frechet(features=nn.Flatten(), protocol="edm")
        assert metric.count(self.CONTEXT) == 150_000
        assert metric.summarise(self.CONTEXT, {"images": self.images(90)}).columns["blocks"] == "minimum of 1 × 90"
        assert dataclasses.replace(metric) == metric
        for name, value in {"samples": 2000, "repeats": 1, "take": "mean"}.items():
            assert getattr(Frechet(features=nn.Flatten()), name) == value
            with pytest.raises(SpecError, match=f"{name}: protocol: edm sets it to .*, got {value}"):
                Frechet(features=nn.Flatten(), protocol="edm", **{name: value})

    def test_one_distance_has_no_minimum(self):
        with pytest.raises(SpecError, match=r"take: minimum is that of several distances; give e\.g\. repeats: 3"):
            Frechet(features=nn.Flatten(), take="minimum")

    def test_statistics_stand_for_the_reference(self, tmp_path):
        wanted = self.summary(samples=300)
        reference = self.CONTEXT.reference.images().flatten(1).double().numpy()
        np.savez(tmp_path / "ref.npz", mu=reference.mean(0), sigma=np.cov(reference, rowvar=False))
        metric = Frechet(features=nn.Flatten(), samples=300, statistics=tmp_path / "ref.npz")
        found = metric.summarise(self.CONTEXT._replace(reference=None), {"images": self.images(300)})
        assert found.value == pytest.approx(wanted.value, rel=1e-12)
        assert found.protocol["reference"] == "ref.npz"
        assert found.protocol["reference_sha256"] == hashlib.sha256((tmp_path / "ref.npz").read_bytes()).hexdigest()
        assert "reference_n" not in found.protocol

    def test_few_samples_are_noted(self):
        note = "8 samples of 4 features: the distance is far above its limit, and its error not to be trusted"
        assert self.summary(n=8).protocol["note"] == note
        assert self.summary(n=300).protocol["note"] == "300 samples: biased upward; compare at equal n only"
        assert self.summary(n=10_000, samples=10_000).protocol["note"] is None
