"""The cells of a study: what was trained for each, how long it took, and where its page is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from snrouter.report.columns import Column
from snrouter.report.number import MISSING, finite
from snrouter.report.tables import Row
from snrouter.report.tune import Sheet

Study = Mapping[str, Any]
"""The content of study.json."""


class Phase(NamedTuple):
    """One phase of a training.

    Attributes:
        name: e.g. "mixture, joint"; of one expert, "mixture, warm, round".
        told: `steps`, `images`, `rows` of networks, `seconds`, and `found`, whether it was found done.
        part: whether it is counted in another phase.
    """

    name: str
    told: Mapping[str, Any]
    part: bool


def phases(steps: Mapping[str, Any], within: Sequence[str] = (), part: bool = False) -> Iterator[Phase]:
    """The phases of what a cell says of its training, `{recipe: {phase: {...}}}`."""
    for name, told in steps.items():
        if not isinstance(told, Mapping):
            continue
        path = [*within, str(name)]
        if "rows" in told:
            yield Phase(", ".join(path), told, part)
            yield from phases(told.get("each") or {}, path, True)
        else:
            yield from phases(told, path, part)


def cells(study: Study) -> Sheet:
    """A row a cell: what was trained for it, how long it took, and where its page is."""
    told = [(model, cell) for model in study["models"] for cell in model["cells"]]
    own = [[phase.told for phase in phases(cell.get("steps") or {}) if not phase.part] for _, cell in told]
    shared = [[phase for phase in each if phase.get("found")] for each in own]
    rows = [Row(model["name"], "", None, (), "", False, {}, {}, {}) for model, _ in told]
    columns = [
        Column("", "model", [model["name"] for model, _ in told], kind="route"),
        Column("", "seed", [str(cell["seed"]) for _, cell in told]),
        Column("", "status", [_status(cell) for _, cell in told], kind="words"),
        *(Column("trained for it", what, [_sum(each, key) for each in own]) for key, what in _COUNTED.items()),
        Column("trained for it", "steps found done", [_sum(each, "steps") for each in shared]),
        Column("", "seconds of evaluation", [_seconds(cell.get("seconds")) for _, cell in told]),
        Column(
            "", "page", [f"{cell['folder']}/report.html" if cell["status"] == "done" else MISSING for _, cell in told], kind="link"
        ),
    ]
    note = (
        "Steps of the optimiser, images and network rows (an image through an expert's network) of all phases. What several "
        "cells have in common, e.g. experts warmed on slices, is trained once and found done by the others; its seconds are those "
        "it took then."
    )
    return Sheet("Cells", note, rows, columns)


_COUNTED = {"steps": "steps", "images": "images", "rows": "network rows", "seconds": "seconds"}


def trainings(study: Study) -> Sheet:
    """A row for each phase of each cell's training."""
    told = [
        (model["name"], cell["seed"], phase)
        for model in study["models"]
        for cell in model["cells"]
        for phase in phases(cell.get("steps") or {})
    ]
    columns = [
        Column("", "model", [name for name, *_ in told], kind="route"),
        Column("", "seed", [str(seed) for _, seed, _ in told]),
        Column("", "phase", [phase.name for *_, phase in told], kind="words"),
        *(Column("", what, [_sum([phase.told], key) for *_, phase in told]) for key, what in _COUNTED.items()),
        Column("", "found done", ["yes" if phase.told.get("found") else "no" for *_, phase in told]),
    ]
    return Sheet("Phases", "", [Row(name, "", None, (), "", False, {}, {}, {}) for name, *_ in told], columns)


def _sum(told: Sequence[Mapping[str, Any]], key: str) -> str:
    known = [number for one in told if (number := finite(one.get(key))) is not None]
    return MISSING if not known else _seconds(sum(known)) if key == "seconds" else f"{sum(known):,.0f}"


def _seconds(value: Any) -> str:
    known = finite(value)
    return MISSING if known is None else f"{known:,.1f}"


def _status(cell: Mapping[str, Any]) -> str:
    return f"{cell['status']}: {cell['error']}" if cell.get("error") else str(cell["status"])
