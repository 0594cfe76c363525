"""Networks that checkpoints name, built from the plain mapping in their card."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from snrouter.errors import CheckpointError, suggestion
from snrouter.experts.networks.adapter_unet import AdapterUNet
from snrouter.experts.networks.adm_unet import ADMUNet
from snrouter.experts.networks.classifier import Classifier
from snrouter.experts.networks.dit import DiT
from snrouter.experts.networks.gate import GateNetwork
from snrouter.experts.networks.song_unet import SongUNet
from snrouter.experts.networks.unet import UNet
from snrouter.experts.networks.vdm_unet import VDMUNet
from snrouter.pickles import quoted, shown

NETWORKS: dict[str, type[nn.Module]] = {
    "unet": UNet,
    "adapter_unet": AdapterUNet,
    "song_unet": SongUNet,
    "adm_unet": ADMUNet,
    "vdm_unet": VDMUNet,
    "dit": DiT,
    "classifier": Classifier,
    "gate": GateNetwork,
}

MOST_BLOCKS, MOST_ITEMS, LARGEST = 256, 16, 65_536
"""The most blocks, the longest list and the largest whole number that a network may be built of: far above what is published."""

_BLOCKS = ("blocks", "num_blocks", "n_blocks", "depth", "heads")


def build(config: Mapping[str, Any]) -> nn.Module:
    """Build the network of a card, e.g. `{"type": "unet", "channels": 32}`.

    Raises:
        CheckpointError: for an unknown type or argument, or one beyond the bounds: what a hostile card asks for must end.
    """
    if not isinstance(config, Mapping):
        raise CheckpointError(f"network: expected a mapping with a type, e.g. {{type: unet}}; got {shown(config)}")
    arguments = dict(config)
    name = arguments.pop("type", None)
    if not isinstance(name, str) or name not in NETWORKS:
        raise CheckpointError(f"unknown network type {quoted(name)}{suggestion(shown(name), NETWORKS)}; known: {[*NETWORKS]}")
    known = inspect.signature(NETWORKS[name]).parameters
    for key, value in arguments.items():
        if key not in known:
            raise CheckpointError(
                f"network {name!r} takes no {quoted(key)}{suggestion(shown(key), known)}; it takes {', '.join(known)}"
            )
        items = value if isinstance(value, (list, tuple)) else [value]
        most = MOST_BLOCKS if key in _BLOCKS else LARGEST
        if len(items) > MOST_ITEMS or not all(_is_plain(item, most) for item in items):
            raise CheckpointError(
                f"network {name!r}: {shown(key)}: expected whole numbers from 0 to {most}, finite ones, words, "
                f"or at most {MOST_ITEMS} of them, got {quoted(value)}"
            )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Initializing zero-element tensors")
            return NETWORKS[name](**arguments)
    except (UserWarning, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, MemoryError, RuntimeError) as error:
        given, reason = str(arguments)[:300], " ".join(str(error).split())
        raise CheckpointError(f"network {name!r} cannot be built of {given} ({reason}); mend its arguments") from None


def _is_plain(value: object, most: int) -> bool:
    match value:
        case bool() | None:
            return True
        case int():
            return 0 <= value <= most
        case float():
            return math.isfinite(value)
    return _is_word(value)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier() and len(value) < 64
