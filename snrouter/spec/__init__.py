"""Specs: from a YAML file to objects.

A spec is validated twice: its own keys by the frozen models of `models`, and each component (`{type: name, ...}`) by the signature
of what its plugin registered. A parameter annotated `Gamma` takes a position in any unit, one annotated `Path` is relative to the
file it was written in.
"""

from collections.abc import Sequence
from pathlib import Path

from snrouter.spec.components import json_schema
from snrouter.spec.document import Document
from snrouter.spec.files import embedded, read
from snrouter.spec.models import Spec

__all__ = ["Document", "Spec", "embedded", "json_schema", "load"]


def load(spec: str | Path, overrides: Sequence[str] = ()) -> Document:
    """Read and validate a spec.

    Args:
        spec: a YAML file, or the name of an embedded spec, e.g. "digits".
        overrides: `key.path=value` each, the value in YAML, e.g. `route.switch.eta=0.3`.

    Raises:
        SpecError: naming file, line and key.
    """
    return Document(*read(spec, overrides))
