"""The Inception Score: closed forms, torchmetrics' number, and a standard error that repeated sampling confirms."""

import math

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.inception import InceptionScore as Theirs

from snrouter.errors import CheckpointError, SpecError
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import Context
from snrouter.metrics.inception_score import InceptionScore, inception_score
from snrouter.metrics.likelihood.estimate import standard_error
from snrouter.solvers.ode import ODE

CONTEXT = Context(GammaInterval(-13.3, 5.0), ODE(), None, None, 0)


def logits(n: int, classes: int = 5, seed: int = 0) -> Tensor:
    return 2 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Pixels(nn.Module):
    """Logits are the first pixels."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.flatten(1), images.flatten(1)[:, :5]


def test_it_is_one_where_all_look_alike_and_the_number_of_classes_where_all_are_sure():
    assert float(inception_score(logits(1).expand(30, -1))[0]) == pytest.approx(1, rel=1e-12)
    sure = 1e4 * torch.eye(5, dtype=torch.float64).repeat(6, 1)
    assert float(inception_score(sure)[0]) == pytest.approx(5, rel=1e-12)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save all extracted features")
@pytest.mark.filterwarnings("ignore:std")
def test_it_is_that_of_torchmetrics():
    theirs = Theirs(feature=nn.Identity(), splits=1)
    theirs.update(logits(200))
    assert float(inception_score(logits(200))[0]) == pytest.approx(float(theirs.compute()[0]), rel=1e-9)


def test_blocks_are_consecutive_and_each_is_scored_by_itself():
    rows = logits(50)
    scores, influence = inception_score(rows, 4)
    assert [float(score) for score in scores] == [float(inception_score(part)[0]) for part in torch.tensor_split(rows, 4)]
    assert len(influence) == 50
    assert float(influence.mean()) == pytest.approx(0, abs=1e-12)


def test_its_standard_error_is_the_spread_over_repeated_sampling():
    """300 sets of 200 samples in 2 blocks; the spread of 300 repeats is itself known to 4%."""
    values, errors = [], []
    for seed in range(300):
        scores, influence = inception_score(logits(200, seed=seed), 2)
        values.append(float(scores.mean()))
        errors.append(standard_error(influence))
    assert sum(errors) / len(errors) == pytest.approx(float(torch.tensor(values).std()), rel=0.15)


def test_the_row_tells_the_spread_over_blocks_that_a_limit_left():
    images = logits(40, 9).reshape(40, 1, 3, 3).float()
    metric = InceptionScore(features=Pixels(), samples=40, splits=2)
    summary = metric.summarise(CONTEXT, {"images": images})
    scores, influence = inception_score(images.flatten(1)[:, :5], 2)
    assert summary.value == pytest.approx(float(scores.mean()), rel=1e-12)
    assert summary.columns == {
        "features": "Pixels",
        "split_standard_deviation": pytest.approx(float(scores.std()), rel=1e-12),
    }
    assert summary.standard_error == standard_error(influence)
    assert summary.protocol["splits"] == 2
    assert metric.summarise(CONTEXT, {"images": images[:39]}).protocol["splits"] == 1  # no smaller blocks than were asked for


def test_small_blocks_have_a_note_and_the_smallest_no_error():
    images = logits(60, 9).reshape(60, 1, 3, 3).float()

    def summary(**arguments):
        return InceptionScore(features=Pixels(), samples=60, **arguments).summarise(CONTEXT, {"images": images})

    found = summary(splits=3)
    assert found.standard_error > 0
    assert found.protocol["note"] == "blocks of 20 samples: biased downward; compare at blocks of one size only"
    found = summary(splits=15)
    assert math.isnan(found.standard_error)
    assert found.influence is None
    assert found.n == 60
    assert found.protocol["note"].startswith("blocks of 4 samples for 5 classes: far below the score's limit, and the error is too")
    one = InceptionScore(features=Pixels()).summarise(CONTEXT, {"images": images[:1]})
    assert math.isnan(one.value)


def test_blocks_of_one_sample_are_refused():
    with pytest.raises(SpecError, match="splits: 5 blocks of 9 samples; expected 1 or more with at least 2 samples in each"):
        InceptionScore(features=Pixels(), samples=9, splits=5)
    InceptionScore(features=Pixels(), samples=10, splits=5)


def test_a_network_without_classes_is_told_before_anything_is_drawn():
    with pytest.raises(CheckpointError, match="features Flatten: the network gives no logits; name one that does"):
        InceptionScore(features=nn.Flatten()).count(CONTEXT._replace(shape=(1, 3, 3)))


def test_it_needs_no_reference():
    assert InceptionScore(features=Pixels()).count(CONTEXT) == 2000
