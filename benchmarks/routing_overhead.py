"""What routing costs: a fixed-step solver through a two-expert route against the bare network calls it makes.

Both make the same calls on the same states, alternated in one process; the ratio of each pair is taken, and its median with a 95
percent interval is printed, and written as JSON with --json FILE. So are those of the calls alone, made through the route and
straight at the experts, as the metric `cost` takes them: what routing adds without the solver and the change of axis.

    python benchmarks/routing_overhead.py [--runs 20] [--batch 256] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from importlib import resources
from pathlib import Path

import torch

import snrouter
from snrouter.draws import Draws
from snrouter.experts.network import NetworkExpert
from snrouter.gamma import sigma
from snrouter.metrics.cost import Median, routing_pairs

INTERVAL = (-7.86, 5.0)
SWITCH = -5.0


class Recorded(torch.nn.Module):
    """Keeps the arguments of every call, so that the bare calls can be made again."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls: list[tuple[torch.Tensor, ...]] | None = None

    def forward(self, z: torch.Tensor, level: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        """The network's own output."""
        if self.calls is not None:
            self.calls.append((z, level))
        return self.network(z, level, condition)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    folder = Path(str(resources.files("snrouter"))) / "embedded"
    experts = {
        "quality": snrouter.load_expert("edm", folder / "digits-quality.safetensors"),
        "likelihood": snrouter.load_expert("vdm", folder / "digits-likelihood.safetensors"),
    }
    recorders = []
    for expert in experts.values():
        assert isinstance(expert, NetworkExpert)
        expert.network = Recorded(expert.network)
        recorders.append(expert.network)
    merged = snrouter.merge(experts, snrouter.Threshold(low="likelihood", high="quality", switch=SWITCH))
    z = (sigma(5.0) * Draws(0).normal("initial", range(options.batch), (1, 8, 8))).float()

    report = {}
    for solver in (snrouter.Heun(18), snrouter.DDIM(36), snrouter.Ancestral(36), snrouter.ODE("rk4", steps=9)):
        for recorder in recorders:
            recorder.calls = []
        solver.solve(merged, z, INTERVAL)
        replay = [(recorder.network, call) for recorder in recorders for call in recorder.calls or []]
        for recorder in recorders:
            recorder.calls = None

        def routed(solver: snrouter.Solver = solver) -> None:
            solver.solve(merged, z, INTERVAL)

        def bare(replay: list = replay) -> None:
            with torch.no_grad():
                for network, call in replay:
                    network(*call)

        ratios = []
        for run in range(options.runs + 2):
            times = {}
            for work in (routed, bare) if run % 2 else (bare, routed):
                start = time.perf_counter()
                work()
                times[work.__name__] = time.perf_counter() - start
            if run >= 2:  # two warm-up pairs
                ratios.append(times["routed"] / times["bare"])
        pairs = routing_pairs(merged, lambda route, solver=solver: solver.solve(route, z, INTERVAL), options.runs)
        alone = Median.of([through / straight for through, straight in pairs])
        whole = Median.of(ratios)
        report[type(solver).__name__] = {
            "calls": len(replay),
            "whole": whole._asdict(),
            "routing": alone._asdict(),
            "runs": len(ratios),
        }
        print(
            f"{type(solver).__name__:10} {len(replay):3d} calls  "
            f"routed / bare = {whole.value:.3f}  [{whole.low:.3f}, {whole.high:.3f}]  "
            f"routing alone = {alone.value:.3f}  [{alone.low:.3f}, {alone.high:.3f}]"
        )
    if options.json:
        options.json.write_text(json.dumps({"batch": options.batch, "overhead": report}, indent=2) + "\n")


if __name__ == "__main__":
    main()
