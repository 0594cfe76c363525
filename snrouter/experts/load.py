"""Loading an expert by the name of its type, from Python."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from snrouter.errors import SpecError, suggestion
from snrouter.experts.base import Expert
from snrouter.plugins import entry_points as plugins


def load_expert(type: str, checkpoint: str | Path | None = None, **arguments: Any) -> Expert:  # noqa: A002 - the spec's own word
    """Load an expert of any registered type.

    Args:
        type: e.g. "edm", "vdm", "generic", or `package:name`.
        checkpoint: the file, for types that have one.
        arguments: the keys that a spec would give, e.g. `data_scale=1.0` or `allow_extrapolation=True`.

    Raises:
        SpecError: for an unknown type or argument.
        CheckpointError: when the checkpoint is missing, damaged or of the wrong shape.
        PluginError: when the plugin of that type cannot be imported.
    """
    target = plugins.experts.get(type)
    known = inspect.signature(target).parameters
    given = arguments if checkpoint is None else {"checkpoint": Path(checkpoint), **arguments}
    for name in given:
        if name not in known:
            raise SpecError(f"expert type {type!r} takes no {name!r}{suggestion(name, known)}; it takes {', '.join(known)}")
    missing = [name for name, p in known.items() if p.default is p.empty and name not in given]
    if missing:
        raise SpecError(f"expert type {type!r} needs {', '.join(missing)}")
    expert: Expert = plugins.experts.checked(type, target(**given))
    return expert
