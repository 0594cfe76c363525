"""Checkpoints: a safetensors file of weights and, beside it, a JSON card that says what the weights are.

The card of `edm.safetensors` is `edm.json`: `{"format": 1, "network": {"type": "unet", ...}, "expert": {...}, "sha256": ...}`.
`expert` holds the arguments the expert was trained with (support, sigma_data, ...). Nothing here runs code from a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from snrouter.errors import CheckpointError, suggestion
from snrouter.experts import networks
from snrouter.experts.networks.classifier import Classifier
from snrouter.files import write


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def card_path(checkpoint: Path) -> Path:
    """The card beside a checkpoint."""
    return checkpoint.with_suffix(".json")


def read_card(checkpoint: Path) -> dict[str, Any]:
    """Read the card of a checkpoint, without its weights.

    Raises:
        CheckpointError: when the weights or the card are missing, or the card is no card.
    """
    if not checkpoint.is_file():
        raise CheckpointError(f"checkpoint {checkpoint}: no such file; give the path of a .safetensors file")
    path = card_path(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {checkpoint}: its card {path.name} is missing; copy it beside the weights")
    try:
        card = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"card {path}: not JSON ({error}); restore it from where the checkpoint came") from None
    if not isinstance(card, dict) or card.get("format") != 1 or "network" not in card:
        raise CheckpointError(f"card {path}: expected a mapping with format 1 and a network; restore or regenerate it")
    return card


def read_tensors(checkpoint: Path, card: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint and check them against the card's hash.

    Raises:
        CheckpointError: when the file is truncated, is no safetensors file, or is not the one the card describes.
    """
    from safetensors.torch import load_file

    if "sha256" in card and sha256(checkpoint) != card["sha256"]:
        raise CheckpointError(
            f"checkpoint {checkpoint}: its SHA-256 differs from its card's; the file is damaged or another, copy it again"
        )
    try:
        return load_file(checkpoint)
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {checkpoint}: cannot be read as safetensors ({error}); it is truncated or of another format"
        ) from None


def load_network(checkpoint: str | Path, network: nn.Module | None = None) -> tuple[nn.Module, dict[str, Any], dict[str, Tensor]]:
    """Build the network of a checkpoint and fill it.

    Args:
        checkpoint: the .safetensors file; its card lies beside it.
        network: fill this one instead of building the card's.

    Returns:
        The network in evaluation mode with frozen weights, the card, and the tensors under "extra." that are not its own.

    Raises:
        CheckpointError: when files are missing or damaged, or shapes disagree.
    """
    checkpoint = Path(checkpoint)
    card = read_card(checkpoint)
    tensors = read_tensors(checkpoint, card)
    extra = {name.removeprefix("extra."): tensors.pop(name) for name in list(tensors) if name.startswith("extra.")}
    network = networks.build(card["network"]) if network is None else network
    expected = network.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        got = list(tensors[name].shape) if name in tensors else "nothing"
        wanted = list(expected[name].shape) if name in expected else "nothing"
        if got != wanted:
            raise CheckpointError(
                f"checkpoint {checkpoint}: tensor {name!r} has shape {got}, expected {wanted}; "
                f"the network in its card is not the one that was saved"
            )
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False), card, extra


def load_expert_network(
    checkpoint: str | Path, kind: str, arguments: Sequence[str]
) -> tuple[nn.Module, dict[str, Any], dict[str, Tensor]]:
    """Load the network of an expert, and check that its card was written for one of that kind.

    Args:
        checkpoint: the .safetensors file; its card lies beside it.
        kind: the expert's type, e.g. "edm".
        arguments: the arguments that the card may hold under "expert".

    Returns:
        The network, the arguments in the card, and extra tensors.

    Raises:
        CheckpointError: as `load_network`, and when the card is of another kind, or its arguments are none of these.
    """
    network, card, extra = load_network(checkpoint)
    where = f"card {card_path(Path(checkpoint))}"
    recipe, held = card.get("recipe", {}), card.get("expert", {})
    if not isinstance(held, dict) or not isinstance(recipe, dict):
        raise CheckpointError(f"{where}: expected mappings under expert and recipe")
    trained = recipe.get("type", kind)
    if trained != kind or isinstance(network, Classifier):
        raise CheckpointError(f"checkpoint {checkpoint}: its card says type {trained!r}, not {kind!r}; register it as that")
    for name, value in held.items():
        if name not in arguments:
            raise CheckpointError(f"{where}: expert.{name}: unknown{suggestion(name, arguments)}; known: {', '.join(arguments)}")
        numbers = value if name == "support" else [value]
        count = 2 if name == "support" else 1
        if not isinstance(numbers, list) or len(numbers) != count or not all(isinstance(n, (int, float)) for n in numbers):
            raise CheckpointError(f"{where}: expert.{name}: expected {count} number{'s' * (count > 1)}, got {value!r}")
    return network, held, extra


def save_checkpoint(
    checkpoint: Path, network: nn.Module, card: Mapping[str, Any], extra: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """Write a network and its card, each atomically; returns the card with the weights' hash.

    Raises:
        OutputError: when the folder cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in network.state_dict().items()}
    tensors |= {f"extra.{name}": tensor.detach().cpu() for name, tensor in (extra or {}).items()}
    write(checkpoint, save(tensors))
    full = {"format": 1, **card, "sha256": sha256(checkpoint)}
    write(card_path(checkpoint), (json.dumps(full, indent=2) + "\n").encode())
    return full
