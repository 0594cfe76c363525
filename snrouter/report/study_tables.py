"""The tables of a study, from study.json: models by measures over seeds, gains, slices, cells; the same in every format."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from snrouter.report.columns import Column
from snrouter.report.measures import HIGHER, LOWER
from snrouter.report.number import MISSING, ONE, Number, Unit, aligned, duration, finite, memory, places, power
from snrouter.report.study_cells import Study, cells
from snrouter.report.tables import Row
from snrouter.report.tune import Sheet


class Told(NamedTuple):
    """One measure of all models.

    Attributes:
        key: e.g. "bpd", or "bpd/slices/round" of a slice.
        title: with its unit.
        unit: what its numbers are told in.
        better: "lower", "higher" or None.
        by_model: what study.json says of each model.
    """

    key: str
    title: str
    unit: Unit
    better: str | None
    by_model: Mapping[str, Mapping[str, Any]]

    @property
    def heading(self) -> str:
        """Its title with the sign of which way is better."""
        return f"{self.title} { {LOWER: '↓', HIGHER: '↑'}.get(self.better or '', '') }".rstrip()

    @property
    def slice(self) -> str:
        """The slice that it is of; "" where it is of all images."""
        metric, _, part = self.key.partition("/")
        return part.rpartition("/")[2] if metric.startswith("bpd") else ""

    def number(self, model: str) -> Number:
        """Mean and standard deviation over the seeds."""
        own = self.by_model.get(model) or {}
        return Number(finite(own.get("mean")), finite(own.get("standard_deviation")))

    def interval(self, model: str, what: str = "") -> tuple[float, float] | None:
        """The 95 percent interval of the mean, or with "relative" that of the gain; None where there is none."""
        own = self.by_model.get(model) or {}
        ends = (own.get(what) or {}).get("interval") if what else own.get("interval")
        low, high = map(finite, ends or (None, None))
        return None if low is None or high is None else (low, high)


def measured(study: Study) -> list[Told]:
    """Every measure, of the data and of its slices, in the order of the study."""
    return [_told(entry) for entry in study["measures"] if not entry["key"].endswith("parameters")]


def likelihood(study: Study) -> Told | None:
    """The first bits/dim of all images."""
    return next((told for told in measured(study) if told.key.startswith("bpd") and not told.slice), None)


def names(study: Study) -> list[str]:
    """The models."""
    return [model["name"] for model in study["models"]]


def stamp(study: Study) -> str:
    """The warning that a limit cut it short; "" where none did."""
    return (
        "PARTIAL: a limit cut this study short. These are not the numbers that its spec asks for." if study.get("partial") else ""
    )


def sheets(study: Study) -> list[Sheet]:
    """The tables that have rows, but for that of the phases of training."""
    whole, parts = ([told for told in measured(study) if bool(told.slice) == of_slice] for of_slice in (False, True))
    made = [
        Sheet("Results", _note(study, whole), _rows(study), _results(study, whole)),
        Sheet("Intervals", _INTERVALS, _rows(study), _intervals(study, whole)),
        Sheet("Relative gains", _gains_note(study), _rows(study), _gains(study, whole)),
        Sheet("By slice", "Mean ± standard deviation over seeds.", _rows(study), _means(study, parts)),
        Sheet("Relative gains by slice", _gains_note(study), _rows(study), _gains(study, parts)),
        cells(study),
    ]
    return [sheet for sheet in made if any(column.kind != "route" and {*column.cells} - {MISSING} for column in sheet.columns)]


_INTERVALS = (
    "95 percent intervals of the means, by Student's t over seeds: they hold where the numbers of different seeds are normal."
)


def _note(study: Study, whole: Sequence[Told]) -> str:
    seeds = len(study["seeds"])
    said = [f"Mean ± standard deviation over {seeds} seed{'s' if seeds > 1 else ''}."]
    said += [f"{sign} {way} is better." for sign, way in (("↓", LOWER), ("↑", HIGHER)) if any(told.better == way for told in whole)]
    bound = likelihood(study)
    if bound and _best(study):
        said.append(f"Marked: the lowest in {bound.title}.")
    if any(not model["trained"] and not model.get("tuned") for model in study["models"]):
        said.append("Where nothing is trained or tuned, seeds change the noise alone.")
    return " ".join(said + _fewer(whole, seeds) + _left_out(study))


def _fewer(whole: Sequence[Told], seeds: int) -> list[str]:
    """Models some of whose numbers are not of all seeds, as cells failed or are not done."""
    found = {
        name: n
        for told in whole
        for name, own in told.by_model.items()
        if 0 < (n := sum(finite(value) is not None for value in own["values"])) < seeds
    }
    listed = ", ".join(f"{name} of {n}" for name, n in found.items())
    return [f"Of fewer than {seeds} seeds: {listed}."] if found else []


def _left_out(study: Study) -> list[str]:
    """Why models lack what their routes cannot have."""
    models: dict[tuple[str, str], list[str]] = {}
    for model in study["models"]:
        own: Mapping[str, str] = next((cell["left_out"] for cell in model["cells"] if cell.get("left_out")), {})
        for reason in dict.fromkeys(own.values()):
            metrics = ", ".join(metric for metric, why in own.items() if why == reason)
            models.setdefault((metrics, reason), []).append(model["name"])
    return [
        f"Left out of {', '.join(names)}: {metrics}, which need an invertible flow; {reason}."
        for (metrics, reason), names in models.items()
    ]


def _gains_note(study: Study) -> str:
    return (
        f"(model − {study['baseline']}) / |{study['baseline']}|, seed by seed: the mean, with its 95 percent interval by Student's "
        "t. Those whose interval holds zero are grey."
    )


# --- columns ---------------------------------------------------------------------------------------------------------


def _results(study: Study, whole: Sequence[Told]) -> list[Column]:
    totals = [finite((model.get("parameters") or {}).get("total")) for model in study["models"]]
    gates = [finite((model.get("parameters") or {}).get("gate")) for model in study["models"]]
    shares = [MISSING if not gate or not total else f"{gate / total:.1%}" for gate, total in zip(gates, totals, strict=True)]
    columns = [Column("", "parameters", [MISSING if x is None else f"{x:,.0f}" for x in totals])]
    columns += [Column("", "of the gate", [MISSING if not x else f"{x:,.0f}" for x in gates]), Column("", "gate's share", shares)]
    return [*_means(study, whole), *columns]


def _means(study: Study, found: Sequence[Told]) -> list[Column]:
    own = [Column("", told.heading, aligned([told.number(name) for name in names(study)], unit=told.unit)) for told in found]
    return [_heads(study), *own]


def _intervals(study: Study, found: Sequence[Told]) -> list[Column]:
    return [
        _heads(study),
        *(Column("", told.heading, [_span(told, told.interval(name)) for name in names(study)]) for told in found),
    ]


def _span(told: Told, ends: tuple[float, float] | None) -> str:
    """E.g. "1.812 to 1.845"."""
    if ends is None:
        return MISSING
    low, high = (end / told.unit.size for end in ends)
    shown = places([Number((low + high) / 2, (high - low) / 4)])
    return f"{low:,.{shown}f} to {high:,.{shown}f}"


def _gains(study: Study, found: Sequence[Told]) -> list[Column]:
    return [_heads(study), *(_gain(study, told) for told in found if told.better)]


def _gain(study: Study, told: Told) -> Column:
    cells, faint = [], []
    for name in names(study):
        mean, ends = gain(told, name)
        half = (ends[1] - ends[0]) / 2 if ends else None
        shown = min(places([Number(100 * mean, 100 * half if half else None)]), 3) if mean is not None else 0
        span = f" ({100 * ends[0]:+.{shown}f} to {100 * ends[1]:+.{shown}f})" if ends else ""
        cells.append(MISSING if mean is None else f"{100 * mean:+.{shown}f}%{span}")
        faint.append(ends is not None and ends[0] <= 0 <= ends[1])
    return Column("", told.heading, cells, faint)


def gain(told: Told, model: str) -> tuple[float | None, tuple[float, float] | None]:
    """The relative gain of a model against the baseline, and its interval."""
    own = (told.by_model.get(model) or {}).get("relative") or {}
    return finite(own.get("mean")), told.interval(model, "relative")


# --- parts -----------------------------------------------------------------------------------------------------------


def _told(entry: Mapping[str, Any]) -> Told:
    """A measure with its unit: seconds and bytes in what people read, tiny and huge numbers in a power of ten."""
    numbers = [Number(finite(own.get("mean"))) for own in entry["by_model"].values()]
    sizes, title, key = [n.value for n in numbers if n.value is not None], str(entry["title"]), str(entry["key"])
    if key == "cost":
        unit = duration(sizes)
        title = title.replace("seconds", unit.name)
    elif key.endswith("bytes"):
        unit = memory(sizes)
        title = title.replace("bytes", unit.name)
    else:
        unit = power(numbers) if sizes else ONE
        title = ", ".join(filter(None, (title, unit.name)))
    return Told(key, title, unit, entry.get("better"), entry["by_model"])


def _heads(study: Study) -> Column:
    return Column("", "model", names(study), kind="route")


def _rows(study: Study) -> list[Row]:
    best = _best(study)
    return [Row(name, "", None, (), "", name == best, {}, {}, {}) for name in names(study)]


def _best(study: Study) -> str | None:
    """The model with the lowest bits/dim."""
    bound = likelihood(study)
    known = [(value, name) for name in names(study) if bound and (value := bound.number(name).value) is not None]
    return min(known)[1] if known else None


def csv_text(study: Study) -> str:
    """A line a model with numbers in full: of each measure mean, standard deviation, interval, gain and the value of each seed."""
    lines = []
    for model in study["models"]:
        line: dict[str, Any] = {"model": model["name"], "route": model["route"]}
        line |= {f"parameters_{key}": value for key, value in (model.get("parameters") or {}).items()}
        for entry in study["measures"]:
            own, key = entry["by_model"].get(model["name"]) or {}, entry["key"].replace("/", "_")
            relative = own.get("relative") or {}
            line |= {key: own.get("mean"), f"{key}_standard_deviation": own.get("standard_deviation")}
            line |= dict(zip((f"{key}_low", f"{key}_high"), own.get("interval") or (None, None), strict=True))
            line[f"{key}_gain"] = relative.get("mean")
            line |= dict(zip((f"{key}_gain_low", f"{key}_gain_high"), relative.get("interval") or (None, None), strict=True))
            line |= {f"{key}_seed{s}": value for s, value in zip(study["seeds"], own.get("values") or [], strict=False)}
        lines.append(line | {"partial": bool(study.get("partial"))})
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()
