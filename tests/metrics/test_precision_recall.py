"""Precision and recall: sets whose balls can be told by hand, brute force, and a standard error that repeated sampling confirms."""

import pytest
import torch
from torch import Tensor, nn

from snrouter.data.base import ImageData
from snrouter.errors import SpecError
from snrouter.gamma import GammaInterval
from snrouter.metrics import precision_recall
from snrouter.metrics.base import Context
from snrouter.metrics.likelihood.estimate import standard_error
from snrouter.metrics.precision_recall import Precision, Recall, covered
from snrouter.solvers.ode import ODE


def normal(n: int, dim: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def summary(metric, ours: Tensor, theirs: Tensor):
    """Of samples and reference images that are features of themselves."""
    images, pixels = (features.reshape(len(features), -1, 1, 1) for features in (ours, theirs))
    context = Context(GammaInterval(-13.3, 5.0), ODE(), None, ImageData(pixels, None, None, "points"), 0)
    metric.count(context)
    return metric.summarise(context, {"images": images})


def test_on_a_line_balls_reach_to_the_second_neighbour():
    """Of 0, 1, 3, 7 the second nearest are 3, 2, 3, 6 away: the balls are [-3, 3], [-1, 3], [0, 6], [1, 13]."""
    centres = points(0, 1, 3, 7)
    assert covered(points(-3.01, -3, 5, 13, 13.01), centres, 2).tolist() == [0, 1, 1, 1, 0]


def test_it_is_brute_force_over_all_pairs_in_blocks_of_any_size(monkeypatch):
    ours, theirs = normal(60) + 0.8, normal(45, seed=1)
    wanted = [
        any((x - y).norm() <= sorted((y - z).norm() for k, z in enumerate(theirs) if k != j)[2] for j, y in enumerate(theirs))
        for x in ours
    ]
    assert 5 < sum(wanted) < 55
    for size in (7, 4096):
        monkeypatch.setattr(precision_recall, "BLOCK", size)
        assert covered(ours, theirs).tolist() == wanted


def test_precision_sees_samples_astray_and_recall_what_they_leave_out():
    """Half of the samples lie far off, and all others in one of two clusters."""
    theirs = torch.cat([normal(100), normal(100, seed=1) + 50])
    ours = torch.cat([normal(100, seed=2), normal(100, seed=3) - 50])
    identity = nn.Flatten()
    precision = summary(Precision(features=identity, samples=200), ours, theirs)
    recall = summary(Recall(features=identity, samples=200), ours, theirs)
    assert 0.45 < precision.value <= 0.5
    assert 0.45 < recall.value <= 0.5
    torch.testing.assert_close(precision.influence + precision.value, covered(ours.float(), theirs.float()))
    assert recall.influence is None
    assert recall.standard_error == pytest.approx(standard_error(covered(theirs, ours)))


def test_the_error_of_precision_is_the_spread_over_repeated_sampling():
    """300 sets of 100 samples against one reference; the spread of 300 repeats is itself known to 4%."""
    reference = normal(100, seed=10_000)
    values, errors = [], []
    for seed in range(300):
        inside = covered(1.5 * normal(100, seed=seed), reference)
        values.append(float(inside.mean()))
        errors.append(standard_error(inside))
    assert sum(errors) / len(errors) == pytest.approx(float(torch.tensor(values).std()), rel=0.15)


def test_only_the_first_reference_images_are_used_where_so_told():
    ours, theirs = normal(30), normal(50, seed=1)
    found = summary(Precision(features=nn.Flatten(), samples=30, reference_samples=20), ours, theirs)
    assert found.value == float(covered(ours.float(), theirs[:20].float()).mean())
    assert found.protocol["reference_n"] == 20


def test_what_makes_no_ball_is_refused_or_not_a_number():
    with pytest.raises(SpecError, match="neighbours: expected 1 to 9, fewer than samples and reference images, got 10"):
        summary(Recall(features=nn.Flatten(), samples=30, neighbours=10, reference_samples=10), normal(30), normal(50))
    with pytest.raises(SpecError, match="reference_samples: expected 2 to 50, the size of the reference; got 51"):
        summary(Precision(features=nn.Flatten(), reference_samples=51), normal(30), normal(50))
    cut = summary(Recall(features=nn.Flatten()), normal(3), normal(50))
    assert cut.value != cut.value
