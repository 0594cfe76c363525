"""What sparse gates save: top-k of four experts against the dense mixture of all, on small U-Nets, a batch at a time.

Ways are alternated in one process, each first in turn; the ratio of a way's seconds to the dense mixture's is taken round by round,
and its median with a 95 percent interval is printed, and written as JSON with --json FILE. States and noise levels are the same for
all ways. `heads` are two of the policies over four heads of one such U-Net, which runs once a batch. The gate has random weights,
and a last bias by which top-2 asks each expert for as many rows, as a loss of balance has it; with --uneven it stays as drawn.
The loads are printed. Even ones are the costly case: each call of an expert has a cost of its own beside that of its rows.

    python benchmarks/gates.py [--rounds 20] [--batch 64] [--threads 1] [--adapter 16] [--uneven] [--processor]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

import snrouter
from snrouter.draws import Draws
from snrouter.experts.networks.adapter_unet import AdapterUNet
from snrouter.experts.networks.gate import GateNetwork
from snrouter.experts.networks.unet import UNet
from snrouter.gamma import GammaInterval
from snrouter.metrics.cost import Median
from snrouter.schedules import schedule

BOUNDS = GammaInterval(-7.86, 5.0)
NAMES = ("a", "b", "c", "d")
CHANNELS = (16, 48)
BAR = 0.55


def compare(
    ways: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 3, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Median]:
    """Median ratio of each way's seconds to those of the first, in rounds that take every way in turn."""
    names = [*ways]
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        shift = number % len(names)
        seconds = {}
        for name in names[shift:] + names[:shift]:
            start = clock()
            ways[name]()
            seconds[name] = clock() - start
        if number >= 0:
            for name in names:
                ratios[name].append(seconds[name] / seconds[names[0]])
    return {name: Median.of(each) for name, each in ratios.items()}


def expert(seed: int) -> snrouter.Expert:
    """A small U-Net with random weights, also of the last layer."""
    torch.manual_seed(seed)
    network = UNet(in_channels=1, channels=CHANNELS)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return snrouter.wrap(network.eval().requires_grad_(False), "v", (-10.0, 6.0), clock="gamma", name=f"unet {seed}")


def heads(adapter: int) -> dict[str, snrouter.Expert]:
    """As many experts that are heads of one such U-Net, with adapters of that width."""
    torch.manual_seed(0)
    network = AdapterUNet(len(NAMES), adapter, in_channels=1, channels=CHANNELS)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network.eval().requires_grad_(False)
    clock = schedule("gamma")  # one object, so that the heads are seen to be fed alike
    return {name: snrouter.wrap(network.head(k), "v", (-10.0, 6.0), clock=clock, name=name) for k, name in enumerate(NAMES)}


def gate() -> snrouter.Gate:
    """A gate with random weights, whose choices differ from state to state."""
    torch.manual_seed(0)
    network = GateNetwork(experts=len(NAMES)).eval().requires_grad_(False)
    torch.nn.init.normal_(network.mix[-1].weight, std=2.0)
    return snrouter.Gate(network, NAMES)


@torch.no_grad()
def load(gate: snrouter.Gate, z: torch.Tensor, levels: Sequence[float]) -> torch.Tensor:
    """Share of rows that top-2 asks each expert for."""
    rows = [snrouter.TopK(gate, 2).weights(torch.full((len(z),), gamma, dtype=torch.float64), z) != 0 for gamma in levels]
    return torch.cat(rows).double().mean(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--adapter", type=int, default=16, help="width of the heads' adapters")
    parser.add_argument("--processor", action="store_true", help="of processor time, where other work shares the cores")
    parser.add_argument("--uneven", action="store_true", help="leave the gate as it was drawn")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    experts, soft = {name: expert(i) for i, name in enumerate(NAMES)}, gate()
    z = Draws(0).normal("initial", range(options.batch), (1, 8, 8)).float()
    levels = [BOUNDS.at(at) for at in (0.1, 0.3, 0.5, 0.7, 0.9)]
    for _ in range(0 if options.uneven else 200):
        soft.network.mix[-1].bias -= 0.2 * (load(soft, z, levels) - 2 / len(NAMES)).float()
    policies = {"dense": soft, **{f"top-{k}": snrouter.TopK(soft, k) for k in (3, 2, 1)}, "single": snrouter.Single("a")}
    routes = {name: snrouter.merge(experts, policy) for name, policy in policies.items()}
    routes |= {f"heads, {name}": snrouter.merge(heads(options.adapter), policies[name]) for name in ("dense", "top-2")}
    sizes = {name: sum(p.numel() for p in route.experts.parameters()) for name, route in routes.items()}

    @torch.no_grad()
    def ask(route: snrouter.Expert) -> None:
        for gamma in levels:
            route(z, gamma)

    shares = [round(share, 3) for share in load(soft, z, levels).tolist()]
    print(f"batch {options.batch}, {options.threads} threads; share of rows that top-2 asks each expert for: {shares}")
    clock = time.process_time if options.processor else time.perf_counter
    found = compare({name: lambda route=route: ask(route) for name, route in routes.items()}, options.rounds, clock=clock)
    for name, ratio in found.items():
        told = "" if name != "top-2" else f"  (bar: at most {BAR}; {'reached' if ratio.value <= BAR else 'not reached'})"
        size = f"{sizes[name]:8,} parameters"
        print(f"{name:12} / dense = {ratio.value:.3f}  [{ratio.low:.3f}, {ratio.high:.3f}]  {size}{told}")
    if options.json:
        told = {
            "batch": options.batch,
            "threads": options.threads,
            "processor_time": options.processor,
            "rounds": options.rounds,
            "load": shares,
        }
        told |= {"ratio": {name: ratio._asdict() for name, ratio in found.items()}, "parameters": sizes}
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
