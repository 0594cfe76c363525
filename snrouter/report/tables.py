"""Tables: result rows pivoted by route.

Each measure becomes a column with its standard error, and the paired differences to each single expert. Routes stand in the order
of the switch: the high-noise expert alone (eta = 0), the thresholds, the low-noise expert alone (eta = 1); those of a tune in its
own order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snrouter.report.measures import Measure, grouped, key_of, label_of, measures, number, run_named, run_of, specs
from snrouter.report.number import Number, finite

SIGNS = {"eta": "η", "gamma_min": "γₘᵢₙ", "gamma_max": "γₘₐₓ"}
"""What positions of a switch and ends of an interval are called."""

_POSITION = re.compile(r"(eta|gamma_min|gamma_max)=(-?\d+(?:\.\d+)?(?:e[+-]\d+)?)")


@dataclass(frozen=True)
class Row:
    """One route with everything measured of it.

    Attributes:
        label: what a person calls it.
        route: the policy's name; "single" for an expert alone.
        eta: of its switch, or None.
        switches: gammas of its switches.
        written: its switch as the spec has it, e.g. "denoising_end 0.8"; "" where that is eta or gamma.
        best: whether the sweep or tune chose it.
        numbers: by measure key.
        differences: by measure key and single expert's label, this route minus that expert, paired.
        rows: the result rows by measure key.
        run: name of the run, where there are several.
        partial: whether a limit cut its run short.
    """

    label: str
    route: str
    eta: float | None
    switches: tuple[float, ...]
    written: str
    best: bool
    numbers: Mapping[str, Number]
    differences: Mapping[str, Mapping[str, Number]]
    rows: Mapping[str, Mapping[str, Any]]
    run: str = ""
    partial: bool = False

    @property
    def single(self) -> bool:
        """Whether it is an expert alone."""
        return self.route == "single"

    @property
    def positions(self) -> dict[str, float]:
        """What a route of a sweep is called by: eta of its switch, ends of its interval; nothing for any other."""
        found = _POSITION.findall(self.label)
        if ", ".join(f"{key}={value}" for key, value in found) != self.label:
            return {}
        return {key: self.eta if key == "eta" and self.eta is not None else float(value) for key, value in found}

    @property
    def position(self) -> str:
        """That in words, e.g. "η = 0.2"; "" where it is called by something else."""
        return ", ".join(f"{SIGNS[key]} = {value:.3g}" for key, value in self.positions.items())

    def nfe(self, measure: Measure) -> float | None:
        """Network calls a sample or an image, of one measure."""
        calls = finite(self.rows.get(measure.key, {}).get("nfe"))
        return calls or None


def table(results: Mapping[str, Any]) -> list[Row]:
    """Result rows pivoted by route: a row a route, in the order of the switch, run by run."""
    known, of_run = measures(results), specs(results)
    by_route: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for key, rows in grouped(results).items():
        for row in rows:
            by_route.setdefault((run_of(row), label_of(row)), {})[key_of(key)] = row
    made = [_row(run_named(results, run), run, label, rows, known) for (run, label), rows in by_route.items()]
    return sorted(made, key=lambda row: (list(of_run).index(row.run), *_place(row, of_run[row.run], run_named(results, row.run))))


def experts(results: Mapping[str, Any]) -> list[str]:
    """Labels of the experts evaluated alone, the low-noise expert first."""
    return list(dict.fromkeys(row.label for row in reversed(table(results)) if row.single))


def stamp(rows: Sequence[Row]) -> str:
    """The warning that limits cut runs short, with the names of several; "" where none was."""
    cut = dict.fromkeys(row.run for row in rows if row.partial)
    which = ", ".join(cut) or "this run"
    whose = "their specs ask" if len(cut) > 1 else "its spec asks"
    return f"PARTIAL: a limit cut {which} short. These are not the numbers that {whose} for." if cut else ""


def _row(whole: Mapping[str, Any], run: str, label: str, rows: Mapping[str, Mapping[str, Any]], known: Sequence[Measure]) -> Row:
    first, chosen = next(iter(rows.values())), whole.get("best") or (whole.get("tune") or {}).get("chosen") or {}
    switches = first.get("gamma_switches") or ([first["gamma_switch"]] if first.get("gamma_switch") is not None else [])
    return Row(
        label=label,
        route="" if first.get("expert", label) != label else str(first.get("route", "")),  # a tune's "no seam" is no baseline
        eta=finite(first.get("eta")),
        switches=tuple(switches),
        written=_written(first.get("switch") or {}),
        best=label == chosen.get("label"),
        numbers={key: number(row) for key, row in rows.items()},
        differences={
            key: {
                other: Number(finite(pair.get("difference")), finite(pair.get("standard_error")))
                for other, pair in (row.get("paired") or {}).items()
            }
            for key, row in rows.items()
        },
        rows={measure.key: rows[measure.key] for measure in known if measure.key in rows},
        run=run,
        partial=bool(whole.get("partial")),
    )


def _written(switch: Mapping[str, Any]) -> str:
    return ", ".join(f"{unit} {value}" for unit, value in switch.items() if unit not in ("eta", "gamma", "scheduler"))


def _place(row: Row, spec: Mapping[str, Any], whole: Mapping[str, Any]) -> tuple[float, ...]:
    tuned = [route["label"] for route in (whole.get("tune") or {}).get("routes", ())]
    if row.label in tuned:
        return (0, tuned.index(row.label))
    route = spec.get("route") or {}
    if row.single:
        return ({route.get("high"): 0, route.get("low"): 2}.get(row.label, 3), 0.0)
    return (1, *row.positions.values()) if row.positions else (3, 0.0)
