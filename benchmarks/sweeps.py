"""What a sweep of thresholds costs beside its routes one by one: network calls, and seconds in one process.

Eleven thresholds over the digits' experts, the spec's or with --even evenly spaced ones, are measured and sampled together
and one by one, in turn; the network calls of both, the median ratio of the seconds with an interval, and the largest difference of
any number or pixel are printed, and written as JSON with --json FILE.

    python benchmarks/sweeps.py [--images 20] [--runs 3] [--even] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import snrouter
from snrouter import spec
from snrouter.experts.base import Expert
from snrouter.metrics.cost import Median
from snrouter.solvers.sample import sample_routes

Routes = Mapping[str, Expert]


class Gave(NamedTuple):
    """Numbers or images by route, and network calls an image, of all routes."""

    values: dict[str, Tensor]
    calls: float


def work(document: spec.Document, images: Tensor, n: int) -> dict[str, Callable[[Routes], Gave]]:
    """What a sweep does, by name."""
    bounds = document.bounds

    def measured(estimator: str, **options: object) -> Callable[[Routes], Gave]:
        def measure(routes: Routes) -> Gave:
            found = snrouter.bits_per_dim(routes, images, bounds, estimator, levels=17, **options)
            return Gave({label: one.values for label, one in found.items()}, sum(one.spent for one in found.values()))

        return measure

    def drawn(solver: snrouter.Solver) -> Callable[[Routes], Gave]:
        def draw(routes: Routes) -> Gave:
            found = sample_routes(routes, n, images.shape[1:], bounds, solver, final="none")
            return Gave({label: one.z for label, one in found.solutions.items()}, sum(found.spent.values()))

        return draw

    return {
        "bits/dim, VLB": measured("vlb", times=64),
        "bits/dim, ODE dopri5": measured("ode"),
        "bits/dim, ODE rk4": measured("ode", solver=snrouter.ODE("rk4", steps=12)),
        "samples, dopri5": drawn(snrouter.ODE()),
        "samples, Heun": drawn(snrouter.Heun(18)),
        "samples, ancestral": drawn(snrouter.Ancestral(64)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--even", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    document = spec.load("digits")
    experts = {name: document.expert(name) for name in ("likelihood", "quality")}
    routes = {
        f"{switch:.6g}": snrouter.merge(experts, snrouter.Threshold(low="likelihood", high="quality", switch=switch))
        for switch in ([document.bounds.at(i / 12) for i in range(1, 12)] if options.even else document.switches())
    }
    images = document.dataset("data").images(range(options.images))
    report = {}
    for name, sweep in work(document, images, options.images).items():

        def together(sweep: Callable[[Routes], Gave] = sweep) -> Gave:
            return sweep(routes)

        def one_by_one(sweep: Callable[[Routes], Gave] = sweep) -> Gave:
            each = [sweep({label: route}) for label, route in routes.items()]
            return Gave({label: value for one in each for label, value in one.values.items()}, sum(one.calls for one in each))

        ratios, seconds, gave = [], {}, {}
        for run in range(options.runs):
            for way in (together, one_by_one) if run % 2 else (one_by_one, together):
                started = time.perf_counter()
                gave[way.__name__] = way()
                seconds[way.__name__] = time.perf_counter() - started
            ratios.append(seconds["together"] / seconds["one_by_one"])
        shared, alone = gave["together"], gave["one_by_one"]
        ratio = Median.of(ratios)
        apart = max(float((shared.values[label] - alone.values[label]).abs().max()) for label in routes)
        report[name] = {"calls": shared.calls, "calls_alone": alone.calls, "seconds": ratio._asdict(), "largest_difference": apart}
        print(
            f"{name:22} calls an image {shared.calls:7.1f} of {alone.calls:7.1f} = {shared.calls / alone.calls:.3f}  "
            f"seconds {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]  largest difference {apart:g}"
        )
    if options.json:
        told = {"images": options.images, "runs": options.runs, "switches": [*map(float, routes)], "sweeps": report}
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
