"""Combined: the rows of several runs as one, where they were measured alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from snrouter.errors import SpecError
from snrouter.report import protocol
from snrouter.report.folder import FORMAT, Folder, names, read
from snrouter.report.measures import grouped, key_of, measures, run_of


def combine(folders: Sequence[Path], mixed: bool = False) -> dict[str, Any]:
    """The rows of one or several runs, each with the name of its `run` and of the `measure` whose column it stands in.

    Args:
        folders: folders of runs, each with a results.json.
        mixed: give numbers of one metric that were not made alike a column for each protocol, instead of refusing them.

    Returns:
        `{"format", "partial", "runs": {name: what results.json holds beside its rows}, "results": [rows]}`; tables are made of it
        as of one run's results.

    Raises:
        SpecError: when a folder holds no results, or, unless `mixed`, when two runs measured the same by different protocols.
    """
    return combined(read_all(folders), mixed)


def read_all(folders: Sequence[Path]) -> list[Folder]:
    """Read runs' folders, each once.

    Raises:
        SpecError: when there is none, or one holds no results.
    """
    if not folders:
        raise SpecError("report needs at least one folder of a run, e.g. snrouter report runs/demo")
    return [read(path) for path in {Path(folder).resolve(): Path(folder) for folder in folders}.values()]


def combined(folders: Sequence[Folder], mixed: bool = False) -> dict[str, Any]:
    """As `combine`, of folders already read."""
    runs, rows = {}, []
    for name, folder in zip(names([folder.path for folder in folders]), folders, strict=True):
        runs[name] = {key: value for key, value in folder.results.items() if key not in ("format", "results")}
        rows += [{"run": name, **row} for row in folder.results["results"]]
    whole = {"format": FORMAT, "partial": any(run.get("partial") for run in runs.values()), "runs": runs, "results": rows}
    columns = {id(row): key_of(key) for key, column in grouped(whole).items() for row in column}
    if not mixed:
        _refuse_mixed(whole)
    return whole | {"results": [row | {"measure": columns[id(row)]} for row in rows]}


def _refuse_mixed(results: Mapping[str, Any]) -> None:
    """Two columns of one metric and variant are for two protocols: right where a run asked for both, else a mixture."""
    titles = {measure.key: measure.title for measure in measures(results)}
    for (key, rows), (other, others) in combinations(grouped(results).items(), 2):
        if key[0] == other[0] and not {run_of(row) for row in rows} & {run_of(row) for row in others}:
            one, two = run_of(rows[0]), run_of(others[0])
            found = protocol.differences([r for r in rows if run_of(r) == one], [r for r in others if run_of(r) == two])
            title = titles[key_of(key)].partition(" (")[0]
            raise SpecError(
                f"{title}: {one} and {two} were not measured alike: {protocol.told(found)}; run them alike, or show a column for "
                "each protocol with --mixed"
            )
