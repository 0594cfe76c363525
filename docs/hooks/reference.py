"""Renders the reference parts of the site from the code: `<!-- generated: spec -->` and its like become tables.

A build hook of MkDocs (`hooks:` in mkdocs.yml). Keys, types and defaults come from the models that check a spec, descriptions
from the docstrings of what is registered, commands from the command line itself, so that the pages cannot fall behind.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, get_args

import typer.main
from griffe import Docstring, DocstringSectionKind
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from snrouter.cli import app
from snrouter.data.slices import Slice
from snrouter.errors import SnrouterError
from snrouter.plugins.entry_points import REGISTRIES
from snrouter.plugins.registry import BUILTIN
from snrouter.recipe import GateRecipe, MixtureRecipe, Optimisation, Recipe
from snrouter.schedules import SCHEDULES
from snrouter.spec.components import arguments_model
from snrouter.spec.models import Bounds, PublishedValue, Spec, Study, StudyModel, Sweep, Tune

MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)

KEYS = {"experts": "type", "policies": "type", "solvers": "type", "metrics": "metric", "datasets": "type"}

TYPES = {  # of the spec's own keys, where a schema says less than a person wants to know
    "experts": "mapping of names to [experts](#experts)",
    "route": "[policy](#policies)",
    "solver": "[solver](#solvers)",
    "interval": "[interval](#interval)",
    "data": "[dataset](#datasets)",
    "reference": "[dataset](#datasets)",
    "evaluate": "list of [metrics](#metrics)",
    "sweep": "[sweep](#sweep)",
    "tune": "[tune](#tune)",
    "published": "path, or what the [file](#published) holds",
    "slices": "mapping of names to [slices](#slices)",
    "train": "mapping of names to [recipes](#train)",
}

TUNE_TYPES = {
    "above": "mapping of experts to [positions](#positions)",
    "gamma_min": "list of [positions](#positions)",
    "gamma_max": "list of [positions](#positions)",
}

DEFAULTS = {"solver": "`{type: ode}`", "interval": "`{gamma_min: -13.3, gamma_max: 5.0}`"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace every marker of a page."""
    return MARKER.sub(lambda found: PARTS[found[1]](), markdown)


# --- specs -----------------------------------------------------------------------------------------------------------


def spec() -> str:
    """Keys of a spec, of its interval, its sweep, its `tune` and its recipes."""
    return "\n\n".join(
        [
            _fields(Spec, TYPES, DEFAULTS, {"extends": "string"}),
            f"### interval\n\n{_fields(Bounds)}",
            f"### sweep\n\n{_fields(Sweep, {'switches': 'list of [positions](#positions)'})}",
            f"### tune\n\nSee [the best route](tune.md).\n\n{_fields(Tune, TUNE_TYPES)}",
            f"### published\n\n`source: {{title, arxiv, table}}` and `rows`, each of which takes\n\n{_fields(PublishedValue)}",
            f"### slices\n\nSee [parts of a set](data.md#parts-of-a-set). Of several keys all must hold.\n\n{_fields(Slice)}",
            f"### study\n\nSee [studies](study.md).\n\n{_fields(Study)}\n\nEach of `models` takes\n\n{_fields(StudyModel)}",
            _recipes(),
        ]
    )


def _recipes() -> str:
    """What every recipe takes, and what each type takes beside it."""
    shared = Optimisation.model_fields.keys()
    own = {"`edm`, `vdm`, `classifier`": Recipe, "`gate`": GateRecipe, "`mixture`": MixtureRecipe}
    parts = ["### train\n\nEach entry is a recipe that `snrouter train` runs; see [training](training.md). All take"]
    parts.append(_fields(Optimisation, defaults={"gradient_clip": "`1.0`; `5.0` of gates and mixtures"}))
    for types, model in own.items():
        parts += [f"Types {types} also" if "," in types else f"Type {types} also", _fields(model, without=shared)]
    return "\n\n".join(parts)


def components() -> str:
    """Keys of every registered built-in."""
    return "\n\n".join("\n\n".join(_kind(kind)) for kind in REGISTRIES)


def schedules() -> str:
    """The named clocks with their parameters."""
    rows = []
    for name, schedule in SCHEDULES.items():
        model = arguments_model(schedule, name)
        keys = ", ".join(f"`{key}`{_after(field)}" for key, field in model.model_fields.items())
        rows.append((f"`{name}`", _inline(_summary(schedule)), keys or "none"))
    return _table(("clock", "what its t is", "parameters"), rows)


def _after(field: FieldInfo) -> str:
    return "" if field.is_required() else f" (default {field.default})"


def _kind(kind: str) -> Iterator[str]:
    yield f"## {kind.capitalize()} {{ #{kind} }}"
    for row in REGISTRIES[kind].rows():
        if row.package != BUILTIN:
            continue
        if row.status != "ok":
            raise SnrouterError(f"{kind} {row.name}: {row.status}")
        target = REGISTRIES[kind].get(row.name)
        model = arguments_model(target, row.name, REGISTRIES[kind].kind)
        said = _arguments(target)
        schema = model.model_json_schema()
        rows = list(_rows(model, schema, said))
        yield f"### `{{{KEYS[kind]}: {row.name}}}` {{ #{kind}-{row.name} }}"
        home = f"{target.__module__}.{target.__qualname__}"
        yield f"{_inline(_summary(target))} From [`{home}`][{home}]."
        yield _table(("key", "value", "default", ""), rows) if rows else "It takes no keys."


def _fields(
    model: type[BaseModel],
    types: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] | None = None,
    first: Mapping[str, str] | None = None,
    without: Collection[str] = (),
) -> str:
    rows: list[tuple[str, ...]] = []
    if first:
        rows.append(("`extends`", "string", "", "an embedded spec's name, or a file, to start from"))
    said = {name: field.description or "" for name, field in model.model_fields.items()}
    for row in _rows(model, model.model_json_schema(), said):
        name = row[0].strip("`")
        if name in without:
            continue
        rows.append((row[0], (types or {}).get(name, row[1]), (defaults or {}).get(name, row[2]), row[3]))
    return _table(("key", "value", "default", ""), rows)


def _rows(model: type[BaseModel], schema: Mapping[str, Any], said: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        told = _inline(said.get(name, ""))
        for nested in _nested(field.annotation):
            told += _inside(nested)
        yield f"`{name}`", _type(schema["properties"][name], schema.get("$defs", {})), _default(field), told


def _nested(annotation: Any) -> Iterator[type]:
    """Dataclasses inside an annotation: the mappings that a key takes."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from _nested(part)


def _inside(nested: type) -> str:
    if any(nested is registry.get(row.name) for registry in REGISTRIES.values() for row in registry.rows() if row.status == "ok"):
        return ""  # a component with a section of its own
    schema = TypeAdapter(nested).json_schema()
    said = _arguments(nested)
    keys = (f"`{key}` ({_type(part, schema.get('$defs', {}))}): {_inline(said[key])}" for key, part in schema["properties"].items())
    return "<br>Each: " + "<br>".join(keys)


def _type(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if schema.get("description") == "a position on the noise axis":
        return "[position](#positions)"
    if "$ref" in schema:
        return _type({"title": schema["$ref"].rpartition("/")[2], **definitions[schema["$ref"].rpartition("/")[2]]}, definitions)
    if "anyOf" in schema:
        parts = [_type(part, definitions) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(parts))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(_type(part, definitions) for part in schema['prefixItems'])}]"
        return f"list of {_plural(_type(schema.get('items', {}), definitions))}"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        if isinstance(values, dict) and values:
            return f"mapping to {_type(values, definitions)}"
        return "mapping"
    kind = str(schema.get("format", schema.get("type", "anything")))
    return {"integer": "whole number", "boolean": "true or false"}.get(kind, kind) + _bounds(schema)


def _plural(text: str) -> str:
    return f"{text}s" if text in ("number", "whole number", "string", "mapping", "path") else text


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = [f"{sign} {_short(schema[key])}" for key, sign in signs.items() if key in schema]
    return f" {', '.join(told)}" if told else ""


def _short(number: float) -> str:
    powers = {2**32: "2^32", 2**63: "2^63", 2**64: "2^64"}
    return powers.get(int(number), f"{number:g}")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None or value == {} or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (tuple, list)):
        return f"`{list(value)}`"
    return "" if isinstance(value, BaseModel) else f"`{value}`"


# --- docstrings ------------------------------------------------------------------------------------------------------


def _sections(target: Any) -> list[Any]:
    return Docstring(inspect.getdoc(target) or "", parser="google").parse(warnings=False)


def _summary(target: Any) -> str:
    return next((part.value for part in _sections(target) if part.kind is DocstringSectionKind.text), "")


def _arguments(target: Any) -> dict[str, str]:
    parameters = (part.value for part in _sections(target) if part.kind is DocstringSectionKind.parameters)
    return {parameter.name: parameter.description for found in parameters for parameter in found}


# --- command line ----------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its own arguments; the options that most share come first."""
    every = typer.main.get_command(app).commands
    counts: dict[tuple[str, str], int] = {}
    for command in every.values():
        for parameter in command.params:
            counts[_option(parameter), parameter.help] = counts.get((_option(parameter), parameter.help), 0) + 1
    shared = [key for key, count in counts.items() if count > 2 and key[0].startswith("`-")]
    parts = ["### Options of many commands", _table(("option", ""), [(name, _inline(told or "")) for name, told in shared])]
    for name, command in every.items():
        own = [p for p in command.params if (_option(p), p.help) not in shared and p.name != "spec"]
        also = [_option(p).split(" ")[0].strip("`") for p in command.params if (_option(p), p.help) in shared]
        usage = " ".join(_metavar(p) for p in command.params if p.param_type_name == "argument")
        parts.append(f"### `snrouter {name}{' ' + usage if usage else ''}` {{ #{name} }}")
        parts.append(_inline(command.help or ""))
        if own:
            parts.append(_table(("", "", "default"), [(_option(p), _inline(p.help or ""), _given(p)) for p in own]))
        parts.append("Also takes " + ", ".join(f"`{option}`" for option in also) + ".")
    return "\n\n".join(parts)


def _metavar(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper())
    return name if parameter.required else f"[{name}]{'...' if parameter.nargs == -1 else ''}"


def _option(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_metavar(parameter)}`"
    value = "" if parameter.is_flag else f" {parameter.metavar or _noun(parameter)}"
    return f"`{', '.join(parameter.opts)}{value}`"


def _noun(parameter: Any) -> str:
    return {"--out": "PATH", "--limit": "N", "-n": "N", "--devices": "N"}.get(parameter.opts[0], "VALUE")


def _given(parameter: Any) -> str:
    if parameter.required:
        return "**required**"
    return "" if parameter.default in (None, "", False) else f"`{parameter.default}`"


# --- Markdown --------------------------------------------------------------------------------------------------------


def _inline(text: str) -> str:
    """A docstring's text on one line, safe in a table."""
    text = text.replace("see `wrap`", "see [predictions](axis.md#parameterizations) and [clocks](axis.md#clocks)")
    return " ".join(text.split()).replace("|", "\\|")


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(header)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


PARTS: dict[str, Callable[[], str]] = {"spec": spec, "components": components, "schedules": schedules, "commands": commands}

logging.getLogger("griffe").setLevel(logging.ERROR)  # what a docstring lacks is ruff's to say
