"""Components: the keys of a plugin are the keyword parameters of what it registered."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from snrouter.errors import PluginError
from snrouter.plugins import entry_points as plugins
from snrouter.spec.models import Component, MetricComponent, Spec

_FILLED = {"expert": ("reference", "loaded"), "policy": ("available", "run_seed")}


def arguments_model(target: Callable[..., Any], name: str, kind: str = "") -> type[BaseModel]:
    """The keys a component takes, read off the class or function that a plugin registered.

    A parameter called `name` is filled with the spec's own name for the component, `reference` of an expert with a function that
    gives the spec's reference, `loaded` of one with the files read before, `available` of a policy with the names of the spec's
    experts and `run_seed` with its seed; they are no keys.

    Args:
        target: the class or function.
        name: it is registered under.
        kind: of its registry, e.g. "expert".
    """
    filled = ("name", *_FILLED.get(kind, ()))
    hints = _hints(target)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(target).parameters.values():
        if parameter.name in filled or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints.get(parameter.name, Any), default)
    config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, protected_namespaces=())
    model: type[BaseModel] = create_model(name.replace(":", "_"), __config__=config, **fields)
    return model


def path_parameters(target: Callable[..., Any]) -> list[str]:
    """Names of the parameters that are paths."""
    return [name for name, hint in _hints(target).items() if hint in (Path, Path | None) and name != "return"]


def known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys that may stand at a location inside a model: those of the model or dataclass found by following its annotations."""
    here: list[Any] = [model]
    for part in location:
        inside = [keys[part] for choice in here if part in (keys := _keys(choice))]
        here = [choice for place in inside or here for choice in _flatten(place) if _keys(choice)]
    return list(dict.fromkeys(key for choice in here for key in _keys(choice)))


def _keys(model: Any) -> dict[str, Any]:
    if inspect.isclass(model) and issubclass(model, BaseModel):
        return {name: field.annotation for name, field in model.model_fields.items()}
    if inspect.isclass(model) and dataclasses.is_dataclass(model):
        return _hints(model)
    return {}


def _flatten(annotation: Any) -> list[Any]:
    """An annotation and everything inside its brackets."""
    return [annotation, *(inner for argument in get_args(annotation) for inner in _flatten(argument))]


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    plain_class = inspect.isclass(target) and not dataclasses.is_dataclass(target)
    try:
        return get_type_hints(target.__init__ if plain_class else target, include_extras=True)
    except NameError as error:
        raise PluginError(
            f"{target.__module__}.{target.__qualname__}: its annotations cannot be resolved ({error}); "
            f"import what they name outside TYPE_CHECKING"
        ) from None


def json_schema() -> dict[str, Any]:
    """JSON schema of specs, every installed plugin's arguments included, for editors."""
    schema = Spec.model_json_schema()
    definitions: dict[str, Any] = schema.setdefault("$defs", {})
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "an embedded spec's name, or a file, to start from",
    }
    for kind, registry in plugins.REGISTRIES.items():
        key = MetricComponent.key if kind == "metrics" else Component.key
        options = []
        for name in registry.names():
            try:
                arguments = arguments_model(registry.get(name), name, registry.kind).model_json_schema(
                    ref_template="#/$defs/{model}"
                )
            except Exception:  # a broken plugin is a row of `snrouter list`, no reason to have no schema
                continue
            definitions.update(arguments.pop("$defs", {}))
            arguments["properties"] = {key: {"const": name}, **arguments.get("properties", {})}
            arguments["required"] = [key, *arguments.get("required", [])]
            definitions[f"{kind}.{name}"] = arguments
            options.append({"$ref": f"#/$defs/{kind}.{name}"})
        definitions[kind] = {"oneOf": options}
    properties = schema["properties"]
    properties["experts"]["additionalProperties"] = {"$ref": "#/$defs/experts"}
    properties["route"] = {"$ref": "#/$defs/policies"}
    properties["solver"] = {"$ref": "#/$defs/solvers"}
    properties["data"] = properties["reference"] = {"$ref": "#/$defs/datasets"}
    properties["published"]["anyOf"].insert(0, {"type": "string", "description": "a file that holds them"})
    properties["evaluate"]["items"] = {"$ref": "#/$defs/metrics"}
    return json.loads(json.dumps(schema))  # type: ignore[no-any-return]
