"""Faults of a spec as a person is told them: place, key, what was expected, an example."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from pydantic import BaseModel, ValidationError

from snrouter.errors import SpecError
from snrouter.gamma import POSITION_KEYS
from snrouter.spec.components import known_keys
from snrouter.spec.files import Location, dotted


def explained(error: ValidationError, prefix: Location, model: type[BaseModel], where: Callable[[Location], str]) -> list[str]:
    """Every fault of what was checked, a line each.

    Args:
        error: as the model raised it.
        prefix: where in the spec the checked part stands.
        model: what it was checked by.
        where: file and line of a location.
    """
    lines = []
    faults = error.errors(include_url=False)
    for fault in faults:
        if fault["type"] == "too_short" and any(_inside(other["loc"], fault["loc"]) for other in faults):
            continue  # it is short of the parts that are told of
        location = (*prefix, *fault["loc"])
        inner = fault.get("ctx", {}).get("error")
        if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            what = _unknown(location, known_keys(model, fault["loc"][:-1]))
        elif isinstance(inner, SpecError) and inner.key is not None:
            location = (*location, inner.key)
            what = _unknown(location, POSITION_KEYS)
        elif fault["type"] in ("missing", "missing_argument"):
            example = _EXAMPLES.get(str(location[-1]))
            what = "missing" + (f"; e.g. {example}" if example else "; add it")
        elif fault["type"] in ("model_type", "model_attributes_type", "dataclass_type", "dict_type"):
            example = _EXAMPLES.get(str(location[-1])) or _EXAMPLES.get(str(location[0]))
            what = f"expected a mapping, e.g. {example}; got {fault['input']!r}"
        elif inner is not None:
            what = str(inner)
        else:
            what = f"{fault['msg'][0].lower()}{fault['msg'][1:]}, got {fault['input']!r}"
        lines.append(f"{where(location)} {dotted(location)}: {what}")
    return lines


def _inside(part: Location, whole: Location) -> bool:
    return len(part) > len(whole) and part[: len(whole)] == whole


def _unknown(location: Location, known: Sequence[str]) -> str:
    """What to say of an unknown key: the close one with an example, else all that are known."""
    close = next(iter(difflib.get_close_matches(str(location[-1]), known, n=1)), None)
    example = _EXAMPLES.get(close or "") or (_EXAMPLES.get(str(location[-2])) if len(location) > 1 else None)
    what = f"unknown key; did you mean {close!r}?" if close else f"unknown key; known: {', '.join(known)};"
    return f"{what} e.g. {example}" if example else what.removesuffix(";")


_EXAMPLES = {
    "experts": "experts: {quality: {type: edm, checkpoint: edm.safetensors}}",
    "route": "route: {type: threshold, low: likelihood, high: quality, switch: {eta: 0.4}}",
    "switch": "switch: {eta: 0.4}",
    "timestep": "switch: {timestep: 500, scheduler: ddpm/scheduler}",
    "boundary_ratio": "switch: {boundary_ratio: 0.875, scheduler: wan/scheduler}",
    "denoising_end": "switch: {denoising_end: 0.8, scheduler: sdxl/scheduler}",
    "interval": "interval: {gamma_min: -13.3, gamma_max: 5.0}",
    "solver": "solver: {type: ode, rtol: 1.0e-5, atol: 1.0e-5}",
    "data": "data: {type: digits, split: test}",
    "evaluate": "evaluate: [{metric: bpd, estimator: vlb}]",
    "sweep": "sweep: {switches: [{eta: 0.1}, {eta: 0.2}]}",
    "slices": "slices: {round: {classes: [0, 6]}}",
    "attributes": "attributes: {Blond_Hair: true, Male: false}",
    "tune": "tune: {times: 64, seams: 2}",
    "above": "above: {quality: {eta: 0.4}}",
    "checkpoint": "checkpoint: model.safetensors",
    "network": "network: {type: unet, channels: [16, 48]}",
    "clock_parameters": "clock_parameters: {alphas_cumprod: [0.99, 0.5, 0.01]}",
    "type": "type: threshold",
    "metric": "metric: bpd",
    "published": "published: numbers.yaml",
    "source": 'source: {title: A paper, arxiv: "2501.00000"}',
    "rows": "rows: [{route: eta=0.4, metric: bpd, estimator: vlb, value: 2.5}]",
}
