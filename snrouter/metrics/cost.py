"""The `cost` metric: what drawing an image costs, in time, memory, parameters and network calls.

Times are medians of repeated draws after warm-up ones. The interval of a median is that of order statistics, [x_(j), x_(n+1-j)],
which holds it with probability 1 - 2 P(Bin(n, 1/2) < j) whatever the distribution; its standard error is half of that interval's
width over the normal quantile of its level. What routing adds is the ratio of one batch's calls made through the route to the same
calls made straight at the experts, alternated in pairs.

Source: David and Nagaraja, Order Statistics (2003), 7.1; Price and Bonett 2001 for the standard error.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

from snrouter.errors import SpecError
from snrouter.experts.base import Expert, Prediction
from snrouter.experts.wrapper import ExpertWrapper
from snrouter.metrics.base import Context, RouteMetric, Summary
from snrouter.router.routed_expert import RoutedExpert
from snrouter.solvers.base import Solution

Call = tuple[Expert, Tensor, Tensor, Tensor | None]
"""An expert, and z, gamma and condition that it was asked with."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost(RouteMetric):
    """What drawing an image costs: seconds (the value), peak memory, parameters, network calls, and what routing adds to them.

    Args:
        batch: images drawn at a time.
        repetitions: draws that are timed, and pairs of which the routing overhead is taken; from 6 on, intervals are of 95 percent.
        warmup: draws before them that are not.
    """

    title = "seconds/image"
    better = "lower"

    batch: int = 16
    repetitions: int = 9
    warmup: int = 2

    def __post_init__(self) -> None:
        for name in ("batch", "repetitions", "warmup"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name}: expected at least 1, got {getattr(self, name)}")

    def count(self, context: Context) -> int:
        """The repetitions."""
        return self.repetitions

    @torch.no_grad()
    def measure(self, context: Context, expert: Expert) -> dict[str, Tensor]:
        """`draw_seconds` an image and `nfe/...` of each draw; seconds of a pair; memory, parameters and threads, alike in all."""
        draw = context.draw
        if draw is None:
            raise SpecError("cost is measured in a run, which draws; use it in a spec's evaluate")
        blocks = [range(r * self.batch, (r + 1) * self.batch) for r in range(self.repetitions)]
        for _ in range(self.warmup):
            device = draw(expert, blocks[0]).z.device
        kind = _reset_peak_memory(device)
        draws = [_timed(partial(draw, expert, block), device) for block in blocks]
        same = {f"peak_memory/{kind}": _peak_memory(kind, device), f"threads/{_processor(device)}": torch.get_num_threads()}
        same |= {"parameters": _parameters(expert)}
        rows = {"draw_seconds": torch.tensor([seconds for _, seconds in draws], dtype=torch.float64) / self.batch}
        rows |= _calls([solution for solution, _ in draws])
        gates = nn.ModuleList(part.gate for part in expert.modules() if isinstance(part, RoutedExpert) and part.gate is not None)
        if gates:
            same |= {"gate_parameters": _parameters(gates)}
        if isinstance(expert, RoutedExpert):
            same |= {f"parameters/{name}": _parameters(expert.expert(name)) for name in expert.policy.experts}
            pairs = routing_pairs(expert, lambda route: draw(route, blocks[0]), self.repetitions, self.warmup)
            rows |= dict(zip(("through", "straight"), torch.tensor(pairs, dtype=torch.float64).T, strict=True))
        return rows | {name: torch.full((self.repetitions,), number) for name, number in same.items()}

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """Median seconds an image; its error is of this machine at that time."""
        seconds = measured["draw_seconds"].tolist()
        latency = Median.of(seconds)
        lower, _, upper = statistics.quantiles(seconds, method="inclusive") if len(seconds) > 1 else seconds * 3
        columns: dict[str, Any] = {
            "batch": f"{self.batch} at a time",
            "quartiles": {"lower": lower, "upper": upper},
            "value_interval": latency.interval,
            "parameters": int(measured["parameters"][0]),
            "parameters_per_expert": {name: int(rows[0]) for name, rows in _under("parameters", measured)},
        }
        if "gate_parameters" in measured:
            columns["gate_parameters"] = int(measured["gate_parameters"][0])
        ((memory, peaks),) = _under("peak_memory", measured)
        ((processor, threads),) = _under("threads", measured)
        columns["peak_memory_bytes"] = int(peaks.max())
        if "through" in measured:
            overhead = Median.of((measured["through"] / measured["straight"]).tolist())
            columns |= {"routing_overhead": overhead.value, "routing_overhead_interval": overhead.interval}
        protocol = {"batch": self.batch, "repetitions": len(seconds), "warmup": self.warmup, "memory": memory}
        protocol |= {"processor": processor, "threads": int(threads[0])}
        return Summary(latency.value, latency.standard_error, None, columns, protocol)


class Median(NamedTuple):
    """A median, the distribution-free interval [low, high] that holds the true one with probability `level`."""

    value: float
    low: float
    high: float
    level: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Median:
        """With the narrowest symmetric interval of at least 95 percent; below six values, their whole range and its level."""
        ordered, n = sorted(values), len(values)
        k = max(int(binom.ppf(0.025, n, 0.5)) - 1, 0)
        return cls(statistics.median(ordered), ordered[k], ordered[n - 1 - k], 1 - 2 * float(binom.cdf(k, n, 0.5)))

    @property
    def standard_error(self) -> float:
        """Half of the interval over the normal quantile of its level; NaN for one value."""
        return (self.high - self.low) / (2 * float(norm.ppf((1 + self.level) / 2))) if self.level > 0 else math.nan

    @property
    def interval(self) -> dict[str, float]:
        """For a result row."""
        return {"low": self.low, "high": self.high, "level": self.level}


class _Noted(ExpertWrapper):
    """An expert that notes the calls it gets, so that they can be made again."""

    def __init__(self, expert: Expert, calls: list[Call]) -> None:
        super().__init__(expert)
        self.calls = calls

    def around(self, expert: Expert) -> Expert:
        """Noted in the same place."""
        return _Noted(expert, self.calls)

    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Prediction:
        """The expert's."""
        self.calls.append((self.expert, z, gamma, condition))
        return self.expert.predict(z, gamma, condition)


@torch.no_grad()
def routing_pairs(
    route: RoutedExpert, draw: Callable[[Expert], Solution], repetitions: int, warmup: int = 2
) -> list[tuple[float, float]]:
    """Seconds of one draw's calls made through a route, and straight at its experts.

    Args:
        route: a route over experts.
        draw: makes the same calls whenever it is given the same expert.
        repetitions: pairs; either way goes first in turn.
        warmup: pairs before them that are not told.
    """
    ways: tuple[list[Call], list[Call]] = ([], [])
    draw(_Noted(route, ways[0]))
    straight = {name: _Noted(route.expert(name), ways[1]) for name in route.policy.experts}
    device = draw(RoutedExpert(straight, route.policy)).z.device

    def again(calls: list[Call]) -> None:
        for expert, z, gamma, condition in calls:
            expert.predict(z, gamma, condition)

    pairs = []
    for number in range(-warmup, repetitions):
        seconds = [0.0, 0.0]
        for way in (0, 1) if number % 2 else (1, 0):
            seconds[way] = _timed(partial(again, ways[way]), device)[1]
        pairs.append((seconds[0], seconds[1]))
    return pairs[warmup:]


def _timed(work: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """What a piece of work gave, and the seconds it took, finished."""
    _finish(device)
    started = time.perf_counter()
    result = work()
    _finish(device)
    return result, time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _calls(solutions: Sequence[Solution]) -> dict[str, Tensor]:
    """Network calls an image in each draw, by expert."""
    names = sorted({name for solution in solutions for name in solution.nfe_per_expert})
    table = {name: [solution.nfe_per_expert.get(name, 0.0) for solution in solutions] for name in names}
    return {f"nfe/{name}": torch.tensor(calls, dtype=torch.float64) for name, calls in table.items()}


def _parameters(module: nn.Module) -> int:
    """How many, those that are shared counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _under(prefix: str, measured: MutableMapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Rows named `prefix/...`, by what follows."""
    return [(name.removeprefix(f"{prefix}/"), rows) for name, rows in measured.items() if name.startswith(f"{prefix}/")]


def _processor(device: torch.device) -> str:
    """What the computation runs on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _reset_peak_memory(device: torch.device) -> str:
    """Start to watch memory; what is watched: "cuda", "rss", or where the kernel cannot start again "process_rss"."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return "cuda"
    try:
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets the peak resident set size
    except OSError:
        return "process_rss"
    return "rss"


def _peak_memory(kind: str, device: torch.device) -> int:
    """Bytes: of tensors on the device; resident in the process while watched; resident in the process since its start."""
    if kind == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if kind == "rss":
        lines = Path("/proc/self/status").read_text().splitlines()
        (kilobytes,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        return 1024 * int(kilobytes)
    import resource  # not on Windows

    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
