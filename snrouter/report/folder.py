"""A run's folder: what the report reads of it, and files written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snrouter.errors import SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
"""The version of results.json that is understood."""


@dataclass(frozen=True)
class Folder:
    """What a run left.

    Attributes:
        path: the folder.
        results: the content of results.json.
        samples: the first samples [n, C, H, W] of each route by its label, where there are any.
        trace: by label x_hat [K, m, C, H, W] from noise to data, and by "<label>/gamma" where [K], where the run kept them.
        pictures: by "<number of the row>/<title>" images [rows, columns, C, H, W], where metrics left any.
        spec: the spec's text.
        environment: versions and platform.
    """

    path: Path
    results: Mapping[str, Any]
    samples: Mapping[str, NDArray[Any]]
    trace: Mapping[str, NDArray[Any]]
    pictures: Mapping[str, NDArray[Any]]
    spec: str
    environment: Mapping[str, Any]


def read(path: Path) -> Folder:
    """Read a run's folder.

    Raises:
        SpecError: when it holds no results, or what it holds cannot be read.
    """
    file = path / "results.json"
    if not file.is_file():
        raise SpecError(f"no results.json in {path}; run snrouter run SPEC --out {path} first")
    results = _json(file)
    if results.get("format") != FORMAT:
        raise SpecError(f"{file}: format {results.get('format')!r}, this snrouter reads {FORMAT}; run the spec again")
    rows = results.get("results")
    whole = isinstance(rows, list) and all(isinstance(row, dict) and {"metric", "label", "value"} <= row.keys() for row in rows)
    if not whole or not rows:
        raise SpecError(f"{file}: no rows of results, or damaged ones; run the spec again")
    samples, trace, pictures = (_tensors(path / f"{name}.safetensors") for name in ("samples", "trace", "pictures"))
    spec = path / "spec.yaml"
    text = spec.read_text() if spec.is_file() else json.dumps(results.get("spec"), indent=2)
    environment = path / "environment.json"
    return Folder(path, results, samples, trace, pictures, text, _json(environment) if environment.is_file() else {})


STUDY = "study.json"
"""What a study leaves in its folder."""


def study_alone(folders: Sequence[Path]) -> Path | None:
    """The one folder, where it is a study's; None where all are of runs.

    Raises:
        SpecError: when a study is among several folders.
    """
    found = [Path(folder) for folder in folders if (Path(folder) / STUDY).is_file()]
    if found and len({Path(folder).resolve() for folder in folders}) > 1:
        raise SpecError(f"{found[0]} is a study, which has a page of its own; run snrouter report {found[0]} alone")
    return found[0] if found else None


def read_study(path: Path) -> dict[str, Any]:
    """What a study found: the content of its study.json.

    Raises:
        SpecError: when there is none, or it cannot be read.
    """
    file = path / STUDY
    if not file.is_file():
        raise SpecError(f"no {STUDY} in {path}; run snrouter study SPEC --out {path} first")
    study = _json(file)
    if study.get("format") != FORMAT:
        raise SpecError(f"{file}: format {study.get('format')!r}, this snrouter reads {FORMAT}; run the study again")
    lacking = [key for key in ("seeds", "baseline", "models", "measures", "findings") if key not in study]
    if lacking:
        raise SpecError(f"{file}: {', '.join(lacking)} missing; run the study again")
    return study


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: cannot be read ({error}); run the spec again") from None
    if not isinstance(content, dict):
        raise SpecError(f"{path}: expected a JSON object; run the spec again")
    return content


def _tensors(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise SpecError(f"{path}: cannot be read ({error}); delete it or run the spec again") from None


def names(paths: Sequence[Path]) -> list[str]:
    """What runs are called: by their folders' names, or where two have the same, by their paths."""
    short = [path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]
