"""Checkpoints: a safetensors file of weights and, beside it, a JSON card that says what the weights are.

The card of `edm.safetensors` is `edm.json`: `{"format": 1, "type": "edm", "network": {"type": "unet", ...}, "expert": {...},
"sha256": ...}`. `type` says which type of expert it is for, and `expert` holds the arguments that one was trained with (support,
sigma_data, ...). The originals, `.pkl` of NVlabs/edm and `.pt` of the PyTorch VDM, are read as such a card and tensors. Nothing
here runs code from a file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snrouter.errors import CheckpointError, suggestion
from snrouter.experts import networks
from snrouter.experts.networks.adapter_unet import one_head
from snrouter.experts.networks.classifier import Classifier
from snrouter.experts.originals import nvlabs, vdm_pytorch
from snrouter.experts.originals.torch_files import OLD, read_state
from snrouter.files import replacing, write
from snrouter.pickles import quoted, shown

Expected = Literal["number", "pair"] | tuple[str, ...]
"""What a card may hold under a key of "expert": a positive number, a pair of increasing ones, or one of these words."""

Loaded = MutableMapping[Path, tuple[nn.Module, dict[str, Any], dict[str, Tensor]]]
"""Networks that have been read, with their cards and extra tensors, by the file."""

LARGEST = 1e6
"""The largest number under "expert"."""

MOST_COMPUTED = 2**24
"""The most numbers that a network holds beside those of its file, such as the positions of a DiT's patches."""


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(checkpoint: Path, expected: str | None = None, published: Collection[str] = ()) -> str:
    """Hex digest of a file that someone else published, compared with what it should be.

    Args:
        checkpoint: the file.
        expected: its digest, where one is known.
        published: beginnings of digests; a .pth or .pt file whose name ends in one of these, as published names do, must have it.

    Raises:
        CheckpointError: when the file is missing or another.
    """
    _check_is_file(checkpoint)
    if expected is not None and not re.fullmatch("[0-9a-fA-F]{64}", expected):
        raise CheckpointError(f"sha256: expected 64 hexadecimal digits, as sha256sum prints them, got {shown(expected)!r}")
    names = published if checkpoint.suffix in (".pth", ".pt") else ()  # the same tensors in another form have another hash
    wanted = expected or next((start for start in names if checkpoint.stem.endswith(f"-{start}")), "")
    if not (digest := sha256(checkpoint)).startswith(wanted.lower()):
        raise CheckpointError(
            f"checkpoint {checkpoint}: its SHA-256 is {digest}, expected {wanted.lower() if expected else f'{wanted}...'}; "
            f"the file is damaged or another, copy it again{'' if expected else ', or give its own as sha256'}"
        )
    return digest


def card_path(checkpoint: Path) -> Path:
    """The card beside a checkpoint."""
    return checkpoint.with_suffix(".json")


def read_for(checkpoint: Path) -> list[Path]:
    """Those of the files a checkpoint is read from that are there: itself, its card, the configuration of a .pt file."""
    beside = {".pkl": [], ".pt": [checkpoint.with_name(vdm_pytorch.CONFIG)]}.get(checkpoint.suffix, [card_path(checkpoint)])
    return [file for file in (checkpoint, *beside) if file.is_file()]


def read_card(checkpoint: Path) -> dict[str, Any]:
    """Read the card of a checkpoint, without its weights.

    Raises:
        CheckpointError: when the weights or the card are missing, or the card is no card.
    """
    _check_is_file(checkpoint)
    path = card_path(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {checkpoint}: its card {path.name} is missing; copy it beside the weights")
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
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


def read_checkpoint(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint of any form as its card and its tensors; those of an original are views of its file.

    Raises:
        CheckpointError: when files are missing or damaged, of an unknown form, or ask for code.
    """
    _check_form(checkpoint, _READERS)
    return _READERS[checkpoint.suffix](checkpoint)


def read_plain(
    checkpoint: Path, network: Mapping[str, Any], key: str | None = None, prefix: str = ""
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a state dict that has no card, of a .safetensors, .pt or .pth file.

    Args:
        checkpoint: the file.
        network: the network, as in a card.
        key: the entry of the .pt file that holds the state dict, where it is not the whole.
        prefix: taken off the names of tensors; those without it are left out.

    Raises:
        CheckpointError: when files are missing or damaged, or it holds no tensors under the key and the prefix.
    """
    _check_form(checkpoint, (".safetensors", ".pt", ".pth"))
    tensors = read_tensors(checkpoint, {}) if checkpoint.suffix == ".safetensors" else read_state(checkpoint, key)
    kept = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not kept:
        raise CheckpointError(f"checkpoint {checkpoint}: no name begins with {prefix!r}; names are such as {[*tensors][:3]}")
    return {"format": 1, "network": network}, kept


def load_network(checkpoint: str | Path, network: nn.Module | None = None) -> tuple[nn.Module, dict[str, Any], dict[str, Tensor]]:
    """Build the network of a checkpoint and fill it.

    Args:
        checkpoint: a .safetensors file, whose card lies beside it, or an original.
        network: fill this one instead of building the card's.

    Returns:
        The network in evaluation mode with frozen weights, the card, and the tensors under "extra." that are not its own.

    Raises:
        CheckpointError: when files are missing or damaged, or shapes disagree.
    """
    checkpoint = Path(checkpoint)
    card, tensors = read_checkpoint(checkpoint)
    extra = {name.removeprefix("extra."): tensors.pop(name) for name in list(tensors) if name.startswith("extra.")}
    if network is None:
        return build_filled(checkpoint, card, tensors), card, extra
    check_fits(checkpoint, network, tensors)
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False), card, extra


def outline(checkpoint: Path, card: Mapping[str, Any]) -> nn.Module:
    """The network of a card without memory for its weights.

    Raises:
        CheckpointError: when the card's network cannot be built.
    """
    try:
        with torch.device("meta"):
            return networks.build(card["network"])
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {checkpoint}: {error}") from None


def check_fits(checkpoint: Path, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Compare names and shapes, and numbers with bytes: tensors of one storage could be any size once each is copied.

    Raises:
        CheckpointError: at the first that differs.
    """
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    count, held = sum(tensor.numel() for tensor in tensors.values()), sum(storages.values())
    if count > held:
        raise CheckpointError(f"checkpoint {checkpoint}: its tensors share {held} bytes among {count} numbers; save each by itself")
    expected = network.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        got = list(tensors[name].shape) if name in tensors else "nothing"
        wanted = list(expected[name].shape) if name in expected else "nothing"
        if got != wanted:
            raise CheckpointError(
                f"checkpoint {checkpoint}: tensor {shown(name)!r} has shape {got}, expected {wanted}; "
                f"the network that its card or the spec gives is not the one that was saved"
            )


def build_filled(checkpoint: Path, card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build the network of a card around the tensors, which are copied only where their type or alignment asks for it.

    Returns:
        The network in evaluation mode with frozen weights.

    Raises:
        CheckpointError: when it cannot be built, or names or shapes disagree.
    """
    network = outline(checkpoint, card)
    check_fits(checkpoint, network, tensors)
    expected = network.state_dict()
    computed = sum(buffer.numel() for name, buffer in network.named_buffers() if name not in expected)
    if computed > MOST_COMPUTED:
        raise CheckpointError(f"checkpoint {checkpoint}: its network computes {computed} numbers; expected at most {MOST_COMPUTED}")
    if computed:
        network = networks.build(card["network"])
    ready = {name: _aligned(tensor.to(expected[name].dtype)) for name, tensor in tensors.items()}
    network.load_state_dict(ready, assign=True)
    return network.eval().requires_grad_(False)


def _aligned(tensor: Tensor) -> Tensor:
    return tensor if tensor.data_ptr() % tensor.element_size() == 0 else tensor.clone()


def load_expert_network(
    checkpoint: str | Path,
    kind: str,
    arguments: Mapping[str, Expected],
    head: int | None = None,
    loaded: Loaded | None = None,
) -> tuple[nn.Module, dict[str, Any], dict[str, Tensor]]:
    """Load the network of an expert, and check that its card was written for one of that kind.

    Args:
        checkpoint: a .safetensors file, whose card lies beside it, or an original.
        kind: the expert's type, e.g. "edm".
        arguments: the arguments that the card may hold under "expert", and what each is: `{"support": "pair"}`.
        head: which of the network's heads, for one that has several.
        loaded: files read before, of which nothing is read again; this one is added. Its networks are the same objects then.

    Returns:
        The network, the arguments in the card, and extra tensors.

    Raises:
        CheckpointError: as `load_network`, and when the card is of another kind, or its arguments are none of these.
        SpecError: for a head that is not there, or none of several.
    """
    read = {} if loaded is None else loaded
    place = Path(checkpoint).resolve()
    network, card, extra = read[place] = read.get(place) or load_network(checkpoint)
    recipe = card.get("recipe", {})
    trained = card.get("type", recipe.get("type", kind) if isinstance(recipe, dict) else recipe)
    if trained != kind or isinstance(network, Classifier):
        what = "a classifier" if isinstance(network, Classifier) else f"of type {shown(trained)!r}"
        raise CheckpointError(f"checkpoint {checkpoint}: it is {what}, not of type {kind!r}; register it as what it is")
    held = expert_arguments(Path(checkpoint), card, arguments)
    for name in held:
        if name not in arguments:
            raise CheckpointError(
                f"checkpoint {checkpoint}: its card's expert.{shown(name)}: unknown{suggestion(name, arguments)}; "
                f"known: {', '.join(arguments)}"
            )
    return one_head(network, head, f"checkpoint {checkpoint}"), held, extra


def expert_arguments(checkpoint: Path, card: Mapping[str, Any], arguments: Mapping[str, Expected]) -> dict[str, Any]:
    """What a card holds under "expert".

    Args:
        checkpoint: that it is of.
        card: the card.
        arguments: what it must be where it is there, as for `load_expert_network`; others may be there too.

    Raises:
        CheckpointError: when it is no mapping, or one of these is something else.
    """
    held = card.get("expert", {})
    if not isinstance(held, dict):
        raise CheckpointError(f"checkpoint {checkpoint}: expected a mapping under its card's expert, got {shown(held)}")
    for name, expected in arguments.items():
        if name in held and not _is(held[name], expected):
            wanted = {
                "number": f"a positive number up to {LARGEST:g}",
                "pair": f"2 numbers within {LARGEST:g}, the smaller first",
            }.get(str(expected), f"one of {', '.join(expected)}")
            raise CheckpointError(f"checkpoint {checkpoint}: its card's expert.{name}: expected {wanted}, got {quoted(held[name])}")
    return held


def _is(value: Any, expected: Expected) -> bool:
    if isinstance(expected, tuple):
        return isinstance(value, str) and value in expected
    if expected == "pair":
        return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]
    return _is_number(value) and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST


def save_checkpoint(
    checkpoint: Path, network: nn.Module, card: Mapping[str, Any], extra: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """Write a network and its card, each atomically; returns the card with the weights' hash.

    Raises:
        OutputError: when the folder cannot be written.
    """
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in network.state_dict().items()}
    tensors |= {f"extra.{name}": tensor.detach().cpu() for name, tensor in (extra or {}).items()}
    return save_tensors(checkpoint, tensors, card)


def save_tensors(checkpoint: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> dict[str, Any]:
    """Write tensors and their card, each atomically; returns the card with the weights' hash.

    Raises:
        CheckpointError: when the card is no JSON, such as one with NaN; nothing is written then.
        OutputError: when the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(checkpoint) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(_apart(tensors), temporary)
            full = {"format": 1, **card, "sha256": sha256(temporary)}
            text = json.dumps(full, indent=2, allow_nan=False)
        except SafetensorError as error:
            raise OSError(str(error)) from None
        except ValueError as error:
            raise CheckpointError(f"card {card_path(checkpoint)}: cannot be written as JSON ({error})") from None
        temporary.chmod(mode)  # safetensors makes a file that only its owner reads
    write(card_path(checkpoint), (text + "\n").encode())
    return full


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors each in one piece, and copied where their storage is an earlier one's: safetensors has no shared storages."""
    ready, seen = {}, set()
    for name, tensor in tensors.items():
        whole = tensor.contiguous()
        place = whole.untyped_storage().data_ptr()
        ready[name] = whole.clone() if place in seen else whole
        seen.add(place)
    return ready


def _read_saved(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    card = read_card(checkpoint)
    return card, read_tensors(checkpoint, card)


_READERS = {".safetensors": _read_saved, ".pkl": nvlabs.read_pickle, ".pt": vdm_pytorch.read_model}
_SAVED = "a file of torch.save"
_FORMS = {".safetensors": "safetensors", ".pkl": "a pickle", ".pt": _SAVED, ".pth": _SAVED}


def _check_is_file(checkpoint: Path) -> None:
    if checkpoint.is_dir():
        raise CheckpointError(
            f"checkpoint {checkpoint}: it is a folder; type diffusers reads folders, this reads a file of weights"
        )
    if not checkpoint.is_file():
        raise CheckpointError(f"checkpoint {checkpoint}: no such file; give the path of a file of weights")


def _check_form(checkpoint: Path, suffixes: Collection[str]) -> None:
    """The suffix must be one that is read, and the content no other form's."""
    _check_is_file(checkpoint)
    if checkpoint.suffix not in suffixes:
        raise CheckpointError(f"checkpoint {checkpoint}: files {checkpoint.suffix!r} are not read; read are {', '.join(suffixes)}")
    with checkpoint.open("rb") as file:
        head = file.read(9)
    told, found = _FORMS[checkpoint.suffix], None
    if head.endswith(b"{"):  # after a length of eight bytes
        found = "safetensors"
    elif head.startswith((b"PK", b"\x80")):
        found = _SAVED if head.startswith((b"PK", OLD[:9])) else "a pickle"
    if found not in (None, told):
        raise CheckpointError(
            f"checkpoint {checkpoint}: it is {found}, not {told} as its name says; "
            f"give the file the name of what it is, or get the right one"
        )
