"""What every metric promises."""

from __future__ import annotations

import json
import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from snrouter.data.base import ImageData
from snrouter.draws import Draws
from snrouter.experts.base import Expert
from snrouter.experts.gaussian import Gaussian
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import Context, DataMetric, Metric, PairMetric, RouteMetric, Summary
from snrouter.solvers.base import Solution
from snrouter.solvers.ode import ODE
from snrouter.solvers.sample import sample
from snrouter.testing.oracles import EXACT, Watched, close


class MetricContract(ABC):
    """What every metric promises."""

    images: int = 12
    """How many images, samples, pairs or repetitions it is tried on, at least 4."""

    tolerance: float = EXACT
    """How far an image's measurement may depend on its batch mates."""

    order_matters: bool = False
    """Whether the number is of blocks of consecutive rows, so that shuffled rows give another."""

    @abstractmethod
    def make(self) -> Metric:
        """A new metric."""

    def expert(self) -> Expert:
        """What is measured."""
        return Gaussian(torch.zeros(1, 8, 8), 0.25 * torch.eye(64), (-14.0, 9.0))

    def context(self) -> Context:
        """A run on 64 images of noise, 8x8 and of 17 levels, with as many others as the reference."""
        bounds, solver = GammaInterval(-7.86, 5.0), ODE()
        data, reference = (
            ImageData((17 * Draws(4).uniform(name, range(64), (1, 8, 8))).to(torch.uint8), 17, torch.arange(64) % 10, name)
            for name in ("pixels", "reference")
        )

        def draw(expert: Expert, indices: Sequence[int]) -> Solution:
            return sample(expert, len(indices), data.shape, bounds, solver, indices=indices, levels=17)

        return Context(bounds, solver, data, reference, 0, draw, data.shape)

    def measure(self, indices: Sequence[int], expert: Expert | None = None) -> dict[str, Tensor]:
        """What the metric is summarised from: its own measurement, samples, or pairs."""
        metric, context = self.make(), self.context()
        images = context.need("data").images(list(indices))
        if isinstance(metric, DataMetric):
            return metric.measure(context, expert or self.expert(), images, indices, None)
        if isinstance(metric, RouteMetric):
            return {name: rows[list(indices)] for name, rows in metric.measure(context, expert or self.expert()).items()}
        if isinstance(metric, PairMetric):
            return {"images": images, "others": context.need("reference").images(list(indices))}
        return {"images": images}

    def summarise(self, measured: dict[str, Tensor]) -> Summary:
        """Its number."""
        return self.make().summarise(self.context(), measured)

    def n(self) -> int:
        """Rows it is tried on: `images`, or as many as it asks for."""
        return min(self.images, self.make().count(self.context()))

    def test_measurements_are_one_a_row_and_independent(self) -> None:
        """Tensors [B, ...], the same batch by batch but for a route metric's, under names that the run does not use itself."""
        n, once = self.n(), isinstance(self.make(), RouteMetric)
        whole = self.measure(range(n))
        parts = [] if once else [self.measure(range(3)), self.measure(range(3, n))]
        taken = whole.keys() & {"indices", "seconds"}
        assert not taken, f"{taken} are the run's own names"
        for name, rows in whole.items():
            assert len(rows) == n, f"{name!r}: expected {n} rows, got {list(rows.shape)}"
            if parts and not name.startswith("nfe/"):
                close(torch.cat([part[name] for part in parts]), rows, self.tolerance, f"{name!r} batch by batch and at once")

    def test_network_calls_are_told(self) -> None:
        """A data metric tells the calls it spent as `nfe/<expert>`."""
        if not isinstance(self.make(), DataMetric):
            return
        watched = Watched(self.expert())
        rows = self.measure(range(self.n()), watched)
        calls = sum(float(values.sum()) for name, values in rows.items() if name.startswith("nfe/"))
        assert math.isclose(calls, watched.rows), f"the expert saw {watched.rows} rows, nfe/... tell {calls:g}"

    def test_the_number_comes_with_its_error(self) -> None:
        """A finite value; its standard error is the influence's standard deviation over sqrt(n); the rest is data and pictures."""
        n = self.n()
        summary = self.summarise(self.measure(range(n)))
        assert math.isfinite(summary.value), f"the value is {summary.value}"
        if summary.influence is not None:
            assert summary.influence.shape == (n,), f"expected {n} influences, got {list(summary.influence.shape)}"
            error = float(summary.influence.double().std()) / math.sqrt(n)
            assert math.isclose(error, summary.standard_error, rel_tol=1e-6), f"{summary.standard_error:g} is not {error:g}"
        json.dumps([dict(summary.columns), dict(summary.protocol), {name: dict(term) for name, term in summary.terms.items()}])
        for title, rows in summary.pictures.items():
            assert rows.ndim == 5, f"pictures {title!r}: expected [rows, columns, C, H, W], got {list(rows.shape)}"
            assert bool(torch.isfinite(rows).all()), f"pictures {title!r} are not finite"

    def test_order_does_not_matter(self) -> None:
        """Shuffled rows give the same value and shuffled influences, unless `order_matters`."""
        if self.order_matters:
            return
        order = [*range(1, self.n(), 2), *range(0, self.n(), 2)]  # reversed rows would stay in their blocks
        measured = self.measure(range(self.n()))
        turned = {name: rows[order] for name, rows in measured.items()}
        straight, shuffled = self.summarise(measured), self.summarise(turned)
        assert math.isclose(straight.value, shuffled.value, rel_tol=1e-9, abs_tol=1e-9), f"{straight.value} then {shuffled.value}"
        if straight.influence is not None and shuffled.influence is not None:
            close(shuffled.influence, straight.influence[order], 1e-6, "influences of shuffled rows")

    def test_fewer_rows_than_asked_for_will_do(self) -> None:
        """A run with `--limit` gives fewer; samples and pairs beyond its own count, of another metric, are left alone."""
        assert math.isfinite(self.summarise(self.measure(range(self.n() - 1))).value)
        metric, available = self.make(), len(self.context().need("data"))
        wanted = metric.count(self.context())
        assert wanted >= 1, f"count is {wanted}"
        if not isinstance(metric, DataMetric | RouteMetric) and wanted < available:
            own, more = (self.summarise(self.measure(range(count))).value for count in (wanted, available))
            assert own == more, f"{own} from its own {wanted} samples, {more} from {available}"

    def test_each_pair_is_compared_by_itself(self) -> None:
        """The influence of a pair on the mean is its own number, whatever stands beside it."""
        if not isinstance(self.make(), PairMetric):
            return
        n = self.n()
        whole, part = (self.summarise(self.measure(range(count))) for count in (n, n - 2))
        if whole.influence is not None and part.influence is not None:
            both = (whole.influence + whole.value)[: n - 2], part.influence + part.value
            close(*both, max(self.tolerance, 1e-6), "numbers of pairs with and without others")

    def test_it_travels_to_other_processes(self) -> None:
        """It can be pickled."""
        pickle.loads(pickle.dumps(self.make()))
