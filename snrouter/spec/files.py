"""Reading specs: YAML with the place of every key kept, `extends`, and `--set`. Nothing else reads YAML."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from snrouter.errors import SpecError, suggestion
from snrouter.gamma import PIPELINE_WORDS, POSITION_KEYS, UNITS

Location = tuple[str | int, ...]


class Source(NamedTuple):
    """Where a key was written."""

    file: str
    line: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


def dotted(location: Location) -> str:
    """A location as a person writes it, e.g. `evaluate[0].metric`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def embedded() -> list[str]:
    """Names of the specs inside the package."""
    folder = resources.files("snrouter") / "embedded"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read(spec: str | Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], dict[Location, Source]]:
    """Read a spec file with what it extends, apply overrides, and tell where each key was written.

    Args:
        spec: a YAML file, or the name of an embedded spec, e.g. "digits".
        overrides: `key.path=value` each, the value in YAML, e.g. `route.switch.eta=0.3`.

    Raises:
        SpecError: naming file, line and key.
    """
    raw, sources = _read(_find(str(spec), Path.cwd()), ())
    for override in overrides:
        _override(raw, sources, override)
    if isinstance(raw.get("published"), str):
        _include("published", raw, sources)
    return raw, sources


def _find(spec: str, folder: Path) -> Path:
    path = folder / spec
    if path.is_file():
        return path
    if spec in embedded():
        return Path(str(resources.files("snrouter") / "embedded" / f"{spec}.yaml"))
    close = suggestion(spec, embedded())
    raise SpecError(f"spec {spec}: no such file, nor an embedded spec{close}; embedded: {', '.join(embedded())}")


def _read(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], dict[Location, Source]]:
    if path in seen:
        raise SpecError(f"{path.name}: extends itself by way of {', '.join(p.name for p in seen)}")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"spec {path}: cannot be read ({error})") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        sources: dict[Location, Source] = {(): Source(path.name, 0, path.parent)}
        if isinstance(node, yaml.MappingNode):
            _locate(node, (), path, sources)
        raw: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise SpecError(f"{path.name}{line}: not YAML ({getattr(error, 'problem', error)})") from None
    except RecursionError:
        raise SpecError(f"{path.name}: an alias (*name) contains itself; write the value out") from None
    except SpecError:
        raise
    except ValueError as error:
        raise SpecError(f"{path.name}: not YAML ({error})") from None
    if not isinstance(node, yaml.MappingNode):
        raise SpecError(f"{path.name}: expected a mapping of keys, e.g. experts: {{...}}")
    base = raw.pop("extends", None)
    if base is None:
        return raw, sources
    under, under_sources = _read(_find(str(base), path.parent), (*seen, path))
    merged = _merge(under, raw, ())
    return merged, under_sources | sources


def _include(key: str, raw: dict[str, Any], sources: dict[Location, Source]) -> None:
    """Replace the name of a file by what the file holds, so that the spec is whole without it."""
    written = sources[(key,)]
    path = written.folder / raw[key]
    if not path.is_file():
        raise SpecError(f"{written} {key}: no such file as {path}; expected a YAML or JSON file")
    raw[key], inner = _read(path, ())
    sources |= {(key, *place): source for place, source in inner.items() if place}


def _locate(node: yaml.Node, location: Location, path: Path, sources: dict[Location, Source]) -> None:
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise SpecError(f"{path.name}:{key.start_mark.line + 1} {dotted(location)}: a key must be a word, e.g. seed: 0")
            if key.value in keys:
                raise SpecError(f"{path.name}:{key.start_mark.line + 1} {dotted((*location, key.value))}: written twice")
            keys.add(key.value)
            sources[(*location, key.value)] = Source(path.name, key.start_mark.line + 1, path.parent)
            _locate(value, (*location, key.value), path, sources)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            sources[(*location, i)] = Source(path.name, value.start_mark.line + 1, path.parent)
            _locate(value, (*location, i), path, sources)


def _merge(under: Any, over: Any, location: Location) -> Any:
    """Deep merge; a component of another type, a position and a list replace what they override."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    if over.get("type", under.get("type")) != under.get("type") or set(under) <= set(POSITION_KEYS):
        return over
    return {
        key: _merge(under[key], over[key], (*location, key)) if key in under and key in over else {**under, **over}[key]
        for key in (*under, *(key for key in over if key not in under))
    }


def _override(raw: dict[str, Any], sources: dict[Location, Source], text: str) -> None:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise SpecError(f"--set {text}: expected key.path=value, e.g. --set route.switch.eta=0.3")
    try:
        put(raw, sources, path, yaml.safe_load(value), Source("--set", 0, Path.cwd()))
    except yaml.YAMLError as error:
        raise SpecError(f"--set {text}: the value is not YAML ({getattr(error, 'problem', error)})") from None
    except SpecError as error:
        raise SpecError(f"--set {text}: {error}") from None


def put(raw: dict[str, Any], sources: dict[Location, Source], path: str, value: Any, written: Source) -> None:
    """Change one key of a raw spec in place, making the mappings that lead to it.

    Args:
        raw: the spec.
        sources: where each location was written; those of what is replaced go.
        path: of the key, e.g. "route.switch.eta"; a number is a place in a list.
        value: what it becomes.
        written: where that was said.

    Raises:
        SpecError: when the path leads through something that has no keys.
    """
    location: Location = tuple(int(part) if part.isdigit() else part for part in path.split("."))
    holder: Any = raw
    try:
        for part in location[:-1]:
            if isinstance(holder, dict) and part not in holder:
                holder[part] = {}
            holder = holder[part]
        if isinstance(holder, dict) and location[-1] in (*UNITS, *PIPELINE_WORDS) and set(holder) <= set(POSITION_KEYS):
            for key in [key for key in holder if key != "scheduler" or location[-1] in UNITS]:
                del holder[key]  # one position replaces another; only a pipeline's word keeps the scheduler
        holder[location[-1]] = value
    except (KeyError, IndexError, TypeError):
        raise SpecError(f"{path} does not lead to a key of the spec") from None
    for gone in [place for place in sources if place[: len(location)] == location]:
        del sources[gone]
    sources[location] = written
