"""The cost section: what the `cost` metric measured, network calls made in all, and calls and seconds of every measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snrouter.report import html, plots
from snrouter.report.columns import Column, work
from snrouter.report.html import Section, section
from snrouter.report.measures import PUBLISHED, measures
from snrouter.report.number import MISSING, Number, Unit, aligned, duration, finite, memory, power
from snrouter.report.tables import Row, table


def costs(results: Mapping[str, Any]) -> Section:
    """Time, memory and parameters where they were measured; then calls of each expert."""
    rows, colours = table(results), plots.expert_colours(results)
    parts = list[str | Section]()
    for measure in measures(results):
        measured = [row.rows.get(measure.key, {}) if measure.metric == "cost" else {} for row in rows]
        if any(measured):
            parts.append(_measured(measured, rows, colours))
    made = "".join(f"<li>{html.typeset(sentence)}</li>" for sentence in calls_made(results))
    parts.append(f'<ul class="lede">{made}</ul>' if made else "")
    counted = work(results)
    if counted:
        note = (
            "Calls of each expert for one sample or image; seconds of computing for all of them, counted once for all metrics of "
            "the same samples."
        )
        parts.append(section("Network calls", html.table(counted, rows, colours), note=note))
    return section("Cost", *parts)


def calls_made(results: Mapping[str, Any]) -> list[str]:
    """Network calls made in all, where routes shared them or one profile served all; nothing where a run does not say."""
    tune = results.get("tune") or {}
    told, said = tune.get("network_calls") or results.get("network_calls") or {}, []
    if finite(told.get("profile")) is not None:
        whole = told["profile"] + (told.get("pilot") or 0)
        part = (
            f", {whole / told['one_vlb']:.2f} of the {told['one_vlb']:,} of one VLB at as many times" if told.get("one_vlb") else ""
        )
        pilot = ", its pilot among them" if told.get("pilot") else ""
        said.append(f"The profile of {tune['networks']} networks took {whole:,} network calls{pilot}{part}.")
    for kind, calls in told.items():
        if isinstance(calls, Mapping) and calls.get("alone"):
            part = f"{calls['spent'] / calls['alone']:.2f} of the {calls['alone']:,.0f} of every route alone"
            metric, _, estimator = kind.partition("/")
            what = _WORK.get(kind) or PUBLISHED.get(metric, metric)
            what += f" ({estimator.upper()})" if estimator else ""
            said.append(f"{what[0].upper()}{what[1:]} took {calls['spent']:,.0f} network calls, {part}.")
    if told.get("exact"):
        said.append(f"The exact ODE of the chosen route took {told['exact']:,} network calls.")
    return said


_WORK = {"samples": "Sampling", "quality": "Sampling"}


def _measured(measured: Sequence[Mapping[str, Any]], rows: Sequence[Row], colours: Mapping[str, int]) -> str:
    batch = next(str(row["batch"]) for row in measured if "batch" in row)
    shown = [Column("", "route", [row.label for row in rows], kind="route"), *_latency(measured), *_memory(measured)]
    shown += _parameters(measured)
    overheads = [finite(row.get("routing_overhead")) for row in measured]
    times = [MISSING if x is None else f"{x:.3f} ×" for x in overheads]
    spans = [_span(row.get("routing_overhead_interval"), 1.0) for row in measured]
    shown += [Column("routing / straight calls", "median", times), Column("routing / straight calls", "interval", spans)]
    intervals = [row["value_interval"] for row in measured if finite((row.get("value_interval") or {}).get("level"))]
    level = f"{intervals[0]['level']:.1%} " if intervals else ""
    note = (
        f"Images drawn {batch}, after warm-up: the median with its distribution-free {level}interval, and the quartiles. Routing "
        "over straight calls: the same network calls through the route and straight at the experts."
    )
    return f'<p class="note">{note}</p>\n{html.table(shown, rows, colours)}'


def _latency(measured: Sequence[Mapping[str, Any]]) -> list[Column]:
    values = [finite(row.get("value")) for row in measured]
    unit = duration(value for value in values if value is not None)
    group = f"{unit.name}/image"
    quartiles = [_span(row.get("quartiles"), unit.size) for row in measured]
    intervals = [_span(row.get("value_interval"), unit.size) for row in measured]
    return [
        Column(group, "median", aligned([Number(value) for value in values], unit=unit)),
        Column(group, "interval", intervals),
        Column(group, "quartiles", quartiles),
    ]


def _memory(measured: Sequence[Mapping[str, Any]]) -> list[Column]:
    sizes = [finite(row.get("peak_memory_bytes")) for row in measured]
    unit = memory(size for size in sizes if size is not None)
    return [Column("peak memory", unit.name, [MISSING if size is None else f"{size / unit.size:,.4g}" for size in sizes])]


def _parameters(measured: Sequence[Mapping[str, Any]]) -> list[Column]:
    totals = [Number(finite(row.get("parameters"))) for row in measured]
    unit = power(totals)
    names = dict.fromkeys(name for row in measured for name in row.get("parameters_per_expert") or {})
    group = ", ".join(filter(None, ("parameters", unit.name)))
    found = [Column(group, "in all", _whole(totals, unit))]
    for name in names:
        numbers = [Number(finite((row.get("parameters_per_expert") or {}).get(name))) for row in measured]
        found.append(Column(group, name, _whole(numbers, unit)))
    gates = [Number(finite(row.get("gate_parameters"))) for row in measured]
    return [*found, Column(group, "the gate", _whole(gates, unit))]


def _whole(numbers: Sequence[Number], unit: Unit) -> list[str]:
    shown = 0 if unit.size == 1 else 2
    return [number.over(unit.size).text(shown) for number in numbers]


def _span(ends: Mapping[str, Any] | None, size: float) -> str:
    """E.g. "2.31 to 2.40"."""
    low, high = (finite((ends or {}).get(a, (ends or {}).get(b))) for a, b in (("low", "lower"), ("high", "upper")))
    if low is None or high is None:
        return MISSING
    cells = aligned([Number(low), Number(high)], unit=Unit(size))
    return f"{cells[0]} to {cells[1]}"
