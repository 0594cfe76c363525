"""The cost metric: medians with honest intervals, and every figure against one that is known beforehand."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import snrouter
from snrouter.errors import SpecError
from snrouter.experts.base import Expert, Prediction
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import Context
from snrouter.metrics.cost import Cost, Median
from snrouter.router.base import Policy
from snrouter.solvers.sample import sample

BOUNDS, HEUN = GammaInterval(-6.0, 4.0), snrouter.Heun(4)
THRESHOLD = snrouter.Threshold("low", "high", -1.0)


class Clock:
    """Time that passes when told to."""

    now = 0.0

    def tick(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


class Busy(Expert):
    """An expert with something to do at every call."""

    def __init__(self, expert: Expert, work: Callable[[], object]) -> None:
        super().__init__(expert.support, expert.name)
        self.expert = expert
        self.work = work

    def predict(self, z, gamma, condition=None) -> Prediction:
        self.work()
        return self.expert.predict(z, gamma, condition)


@dataclass(frozen=True)
class Halves(Policy):
    """Half of each expert everywhere; to say so takes half a second."""

    clock: Clock
    experts = ("low", "high")
    seams = ()

    def weights(self, gamma, z, condition=None):
        self.clock.tick(0.5)
        return torch.full((len(z), 2), 0.5, dtype=torch.float64)

    def restrict(self, lo, hi):
        return self

    def support(self, experts):
        return BOUNDS


class Run:
    """Draws as a run does, and notes what was asked for; `work` is what a draw costs beside its calls."""

    def __init__(self, work: Callable[[int], object] = lambda drawn: None) -> None:
        self.asked: list[range] = []
        self.work = work

    def __call__(self, expert, indices):
        self.work(len(self.asked))
        self.asked.append(indices)
        return sample(expert, len(indices), (6,), BOUNDS, HEUN, indices=indices)

    @property
    def context(self) -> Context:
        return Context(BOUNDS, HEUN, None, None, 0, self)


def summary(metric: Cost, expert: Expert, run: Run | None = None):
    context = (run or Run()).context
    return metric.summarise(context, metric.measure(context, expert))


@pytest.mark.parametrize(
    ("n", "ends", "level"),
    [
        (1, (0, 0), 0.0),
        (2, (0, 1), 0.5),
        (5, (0, 4), 15 / 16),
        (6, (0, 5), 31 / 32),
        (9, (1, 7), 0.9609375),
        (20, (5, 14), 0.9586105),
    ],
)
def test_a_medians_interval_is_that_of_order_statistics_with_its_exact_level(n, ends, level):
    median = Median.of([float(i) ** 2 for i in reversed(range(n))])
    assert (median.low, median.high) == (ends[0] ** 2, ends[1] ** 2)
    assert median.level == pytest.approx(level, abs=1e-7)
    assert math.isnan(median.standard_error) == (n == 1)


def test_a_medians_interval_and_error_are_true_of_a_skewed_distribution():
    """2000 medians of 25 exponentials: the interval holds log 2 as often as it says, and errors are the medians' spread."""
    values = torch.rand(2000, 25, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log().neg()
    medians = [Median.of(row) for row in values.tolist()]
    held = sum(median.low <= math.log(2) <= median.high for median in medians) / len(medians)
    assert held == pytest.approx(medians[0].level, abs=3 * math.sqrt(0.05 * 0.95 / 2000))
    spread = float(torch.tensor([median.value for median in medians]).std())
    assert sum(median.standard_error for median in medians) / len(medians) == pytest.approx(spread, rel=0.1)


def test_seconds_an_image_are_the_median_of_the_draws_after_warm_up(clock, gaussian):
    """Draw number d takes 100 s when it warms up, then d squared."""
    run = Run(lambda drawn: clock.tick(100.0 if drawn < 3 else drawn**2))
    metric = Cost(batch=4, repetitions=6, warmup=3)
    found = summary(metric, gaussian, run)
    times = [d**2 / 4 for d in range(3, 9)]
    assert found.value == pytest.approx((times[2] + times[3]) / 2)
    assert found.columns["quartiles"] == pytest.approx(
        {"lower": times[1] + (times[2] - times[1]) / 4, "upper": times[4] - (times[4] - times[3]) / 4}
    )
    assert found.columns["value_interval"] == pytest.approx({"low": times[0], "high": times[-1], "level": 31 / 32})
    assert 0 < found.standard_error < times[-1]
    assert found.influence is None
    assert run.asked == [range(4)] * 3 + [range(4 * r, 4 * r + 4) for r in range(6)]
    assert metric.count(run.context) == 6


def test_routing_adds_what_the_route_does_beside_its_experts(clock, pair):
    """Two experts of 1 s and 3 s, and half a second to weigh them: 4.5 s through the route, 4 s straight, at any cost of drawing."""
    busy = {"low": Busy(pair["low"], lambda: clock.tick(1.0)), "high": Busy(pair["high"], lambda: clock.tick(3.0))}
    found = summary(Cost(batch=2), snrouter.merge(busy, Halves(clock)), Run(lambda drawn: clock.tick(1000.0)))
    assert found.columns["routing_overhead"] == pytest.approx(4.5 / 4)
    assert found.columns["routing_overhead_interval"] == pytest.approx({"low": 4.5 / 4, "high": 4.5 / 4, "level": 0.9609375})
    assert summary(Cost(batch=2), snrouter.merge(busy, THRESHOLD)).columns["routing_overhead"] == pytest.approx(1)


def test_a_lone_expert_has_no_routing_overhead(gaussian):
    assert not {"routing_overhead", "routing_overhead_interval"} & summary(Cost(batch=2), gaussian).columns.keys()


def test_both_ways_make_the_same_calls_on_the_same_states(oracles, pair):
    recorders = {name: oracles.Recorder(expert) for name, expert in pair.items()}
    Cost(batch=2, repetitions=1, warmup=1).measure(Run().context, snrouter.merge(recorders, THRESHOLD))
    for recorder in recorders.values():
        # warm-up, the timed draw, two that note the calls, two pairs
        eighth = len(recorder.z) // 8
        assert len(recorder.z) == 8 * eighth > 0
        for part in range(1, 8):
            for call in range(eighth):
                torch.testing.assert_close(recorder.z[part * eighth + call], recorder.z[call], rtol=0, atol=0)


def test_calls_are_those_of_the_draws(pair):
    merged = snrouter.merge(pair, THRESHOLD)
    solution = sample(merged, 3, (6,), BOUNDS, HEUN)
    rows = Cost(batch=3, repetitions=2).measure(Run().context, merged)
    calls = {name.removeprefix("nfe/"): values.tolist() for name, values in rows.items() if name.startswith("nfe/")}
    assert calls == {name: [number] * 2 for name, number in solution.nfe_per_expert.items()}
    assert set(calls) == {"low", "high"}
    assert all(len(values) == 2 for values in rows.values())


class Network(torch.nn.Module):
    def __init__(self, *parts: torch.nn.Module) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, z, level, condition):
        return 0.5 * z


def test_parameters_are_those_on_the_route_and_shared_ones_count_once():
    shared, own, other = torch.nn.Linear(3, 5), torch.nn.Linear(2, 2), torch.nn.Linear(9, 9)
    parts = {"low": (shared, own), "high": (shared,), "off": (other,)}
    experts = {name: snrouter.wrap(Network(*each), "eps", BOUNDS, name=name) for name, each in parts.items()}
    columns = summary(Cost(batch=1, repetitions=1), snrouter.merge(experts, THRESHOLD)).columns
    assert columns["parameters"] == 26
    assert columns["parameters_per_expert"] == {"low": 26, "high": 20}


def test_peak_memory_is_the_peak_while_drawing(gaussian):
    """An expert that holds 96 MB while it is asked, and the same without."""
    held = 96 * 2**20
    kinds, peaks = zip(
        *(
            (found.protocol["memory"], found.columns["peak_memory_bytes"])
            for work in (lambda: torch.ones(held, dtype=torch.uint8), lambda: None)
            for found in [summary(Cost(batch=1, repetitions=1, warmup=1), Busy(gaussian, work))]
        ),
        strict=True,
    )
    if kinds[0] != "rss":
        pytest.skip("this kernel does not start a process's peak again")
    assert peaks[0] - peaks[1] == pytest.approx(held, rel=0.1)


def test_where_the_peak_cannot_start_again_it_is_the_processs_and_says_so(gaussian, monkeypatch):
    metric = Cost(batch=1, repetitions=1)
    before = summary(metric, gaussian).columns["peak_memory_bytes"]

    def refuse(path, text):
        raise PermissionError(path)

    monkeypatch.setattr(Path, "write_text", refuse)
    found = summary(metric, gaussian)
    assert found.protocol["memory"] == "process_rss"
    assert found.columns["peak_memory_bytes"] >= 0.9 * before


def test_the_row_says_how_it_was_measured_and_is_plain_data(pair):
    found = summary(Cost(batch=2, repetitions=3, warmup=1), snrouter.merge(pair, THRESHOLD))
    assert found.columns["batch"] == "2 at a time"
    wanted = {"batch": 2, "repetitions": 3, "warmup": 1, "threads": torch.get_num_threads()}
    assert wanted.items() <= found.protocol.items()
    assert len(found.protocol["processor"]) > 3
    json.dumps([dict(found.columns), dict(found.protocol)])
    assert (Cost.title, Cost.better) == ("seconds/image", "lower")


def test_a_limit_may_leave_one_repetition(pair):
    metric, context = Cost(batch=1, repetitions=3), Run().context
    rows = metric.measure(context, snrouter.merge(pair, THRESHOLD))
    found = metric.summarise(context, {name: values[:1] for name, values in rows.items()})
    assert found.value == float(rows["draw_seconds"][0])
    assert math.isnan(found.standard_error)
    assert found.protocol["repetitions"] == 1


@pytest.mark.parametrize("name", ["batch", "repetitions", "warmup"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(SpecError, match=f"{name}: expected at least 1, got 0"):
        Cost(**{name: 0})


def test_outside_of_a_run_it_says_where_it_belongs(gaussian):
    with pytest.raises(SpecError, match=r"measured in a run, which draws; use it in a spec's evaluate"):
        Cost().measure(Run().context._replace(draw=None), gaussian)
