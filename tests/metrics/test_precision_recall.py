"""Precision and recall: sets whose balls can be told by hand, brute force, and a standard error that repeated sampling confirms."""

import pytest
import torch
from torch import Tensor, nn

from snrouter.data.base import ImageData
from snrouter.errors import SpecError
from snrouter.gamma import GammaInterval
from snrouter.metrics import blocks, references
from snrouter.metrics.base import Context
from snrouter.metrics.likelihood.estimate import standard_error
from snrouter.metrics.precision_recall import Precision, Recall, balls, covered
from snrouter.solvers.ode import ODE


def normal(n: int, dim: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def summary(metric, ours: Tensor, theirs: Tensor, seed: int = 0):
    """Of samples and reference images that are features of themselves."""
    images, pixels = (features.reshape(len(features), -1, 1, 1) for features in (ours, theirs))
    context = Context(GammaInterval(-13.3, 5.0), ODE(), None, ImageData(pixels, None, None, "points"), seed)
    metric.count(context)
    return metric.summarise(context, {"images": images})


def test_on_a_line_balls_reach_to_the_second_neighbour():
    """Of 0, 1, 3, 7 the second nearest are 3, 2, 3, 6 away: the balls are [-3, 3], [-1, 3], [0, 6], [1, 13]."""
    centres = points(0, 1, 3, 7)
    assert covered(points(-3.01, -3, 5, 13, 13.01), centres, balls(centres, 2)).tolist() == [[0, 1, 1, 1, 0]]


@pytest.mark.parametrize("size", [7, 2048])
def test_it_is_brute_force_over_all_pairs_in_blocks_of_any_size(monkeypatch, size):
    monkeypatch.setattr(blocks, "BLOCK", size)
    ours, theirs = normal(60) + 0.8, normal(45, seed=1)
    half = torch.arange(45) % 2 == 0

    def brute(centres):
        return [any((x - y).norm() <= (centres - y).norm(dim=1).sort().values[3] for y in centres) for x in ours]

    chosen = torch.stack([torch.ones(45, dtype=torch.bool), half])
    found = covered(ours, theirs, balls(theirs, 3, chosen))
    assert found.tolist() == [brute(theirs), brute(theirs[half])]
    assert torch.equal(covered(ours, theirs, balls(theirs)), found[:1])
    assert 5 < int(found[0].sum()) < 55


def test_copies_are_covered_where_a_ball_has_no_radius():
    """Each centre is there five times, so that its third neighbour is itself; rounding must not decide of 1000 copies."""
    centres = (normal(200, 64) + 3).repeat(5, 1)
    assert bool(covered(centres, centres, balls(centres)).all())
    assert not bool(covered(centres + 1e-3, centres, balls(centres)).any())


def test_precision_sees_samples_astray_and_recall_what_they_leave_out():
    """Half of the samples lie far off, and all others in one of two clusters."""
    theirs = torch.cat([normal(100), normal(100, seed=1) + 50])
    ours = torch.cat([normal(100, seed=2), normal(100, seed=3) - 50])
    precision = summary(Precision(features=nn.Flatten(), samples=200), ours, theirs)
    recall = summary(Recall(features=nn.Flatten(), samples=200), ours, theirs)
    assert 0.45 < precision.value <= 0.5
    assert recall.value == float(covered(theirs.float(), ours.float(), balls(ours.float())).mean())
    assert 0.45 < recall.value <= 0.5
    wanted = covered(ours.float(), theirs.float(), balls(theirs.float()))[0]
    torch.testing.assert_close(precision.influence + precision.value, wanted)
    assert recall.influence is None
    assert recall.n == precision.n == 200
    assert recall.protocol["note"].startswith("200 samples, 200 reference images: both numbers move the value")


def test_the_error_of_precision_is_the_spread_over_repeated_sampling():
    """300 sets of 100 samples against one reference; the spread of 300 repeats is itself known to 4%."""
    reference = normal(100, seed=10_000)
    reach = balls(reference)
    values, errors = [], []
    for seed in range(300):
        inside = covered(1.5 * normal(100, seed=seed), reference, reach)[0]
        values.append(float(inside.mean()))
        errors.append(standard_error(inside))
    assert sum(errors) / len(errors) == pytest.approx(float(torch.tensor(values).std()), rel=0.15)


def test_the_error_of_recall_is_the_spread_over_redrawn_samples():
    """200 sets of 100 samples, 40 of them with their errors; over the many reference images the spread would be a third of it."""
    theirs = normal(800, seed=10_000)
    sets = [0.8 * normal(100, seed=seed) for seed in range(200)]
    inside = [covered(theirs, ours, balls(ours))[0] for ours in sets]
    spread = float(torch.stack(inside).mean(1).std())
    errors = [summary(Recall(features=nn.Flatten(), samples=100), ours, theirs).standard_error for ours in sets[:40]]
    assert sum(errors) / 40 == pytest.approx(spread, rel=0.2)
    assert standard_error(inside[0]) < 0.5 * spread


def test_so_many_reference_images_are_drawn_by_the_runs_seed():
    ours, theirs = normal(30), normal(50, seed=1)
    metric = Precision(features=nn.Flatten(), samples=30, reference_samples=20)
    found = [summary(metric, ours, theirs, seed) for seed in (0, 0, 1)]
    assert found[0].value == found[1].value != found[2].value
    assert found[0].protocol["reference_n"] == 20
    assert found[0].protocol["reference_drawn"] == "from 50 by seed 0"
    assert "reference_drawn" not in {
        name for name, told in summary(Precision(features=nn.Flatten()), ours, theirs).protocol.items() if told
    }


def test_a_reference_too_large_to_compare_each_with_each_is_refused(monkeypatch):
    monkeypatch.setattr(references, "LARGEST", 100)
    match = "reference: 50 images of 4 features are too many to compare each with each; set reference_samples to at most 25"
    with pytest.raises(SpecError, match=match):
        summary(Recall(features=nn.Flatten(), samples=30), normal(30), normal(50))
    summary(Recall(features=nn.Flatten(), samples=30, reference_samples=25), normal(30), normal(50))


def test_what_makes_no_ball_is_refused_or_not_a_number():
    with pytest.raises(SpecError, match="neighbours: expected 1 to 9, fewer than samples and reference images, got 10"):
        summary(Recall(features=nn.Flatten(), samples=30, neighbours=10, reference_samples=10), normal(30), normal(50))
    with pytest.raises(SpecError, match="reference_samples: expected 2 to 50, the size of the reference; got 51"):
        summary(Precision(features=nn.Flatten(), reference_samples=51), normal(30), normal(50))
    cut = summary(Recall(features=nn.Flatten()), normal(3), normal(50))
    assert cut.value != cut.value
