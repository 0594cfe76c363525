"""Tensors in files of `torch.save` and in pickles, read without PyTorch's unpickler.

A tensor is pickled as a view (offset, shape, strides) of a storage. Where the storage's bytes are depends on the file:

- in a .pt file, a zip archive, the storage is a persistent id whose key names an entry `<root>/data/<key>`;
- in a .pt file from before PyTorch 1.6 it is a persistent id, too: the file is pickles of a magic number, a version, the machine's
  type sizes, the value and a list of keys; then for each key the number of elements as int64, and the elements;
- in a plain pickle it is a byte string in that older format, whose value is one persistent id.

Every number that the file states is checked against the bytes that are there. Tensors are views of the file, perhaps unaligned.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snrouter import files
from snrouter.errors import CheckpointError, PickleError
from snrouter.pickles import OPCODES, Call, Global, read, shown

_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_BYTES = "torch.storage._load_from_bytes"
_STORAGES = {
    f"torch.{name}": dtype
    for name, dtype in {
        "DoubleStorage": torch.float64,
        "FloatStorage": torch.float32,
        "HalfStorage": torch.float16,
        "BFloat16Storage": torch.bfloat16,
        "LongStorage": torch.int64,
        "IntStorage": torch.int32,
        "ShortStorage": torch.int16,
        "CharStorage": torch.int8,
        "ByteStorage": torch.uint8,
        "BoolStorage": torch.bool,
        "UntypedStorage": torch.uint8,
        "storage.UntypedStorage": torch.uint8,
    }.items()
}

TENSORS = frozenset([_TENSOR, _PARAMETER, _BYTES, "torch.Size", *_STORAGES])
"""What tensors are pickled as."""

MAPPINGS = frozenset(["collections.OrderedDict"])
"""Subclasses of dict in files of PyTorch."""

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001

OLD = pickle.dumps(_MAGIC, protocol=2)
"""How files of `torch.save` from before PyTorch 1.6 begin."""
_LARGEST_HEAD, _MOST_ENTRIES = 4096, 100_000


def tensor(record: Any, entries: Mapping[str, memoryview] | None = None) -> Tensor:
    """The tensor or parameter of a record, as a view of the file.

    Args:
        record: what `pickles.read` made of it.
        entries: the bytes that persistent ids name.

    Raises:
        PickleError: when it is no tensor, or claims more than its storage has.
    """
    if isinstance(record, Call) and record.name == _PARAMETER and record.args:
        record = record.args[0]
    match record:
        case Call(name=name, args=(storage, int() as offset, shape, stride, *_)) if name == _TENSOR:
            raw, dtype = _storage(storage, entries or {})
            shape, stride = (size.args[0] if isinstance(size, Call) and len(size.args) == 1 else size for size in (shape, stride))
            _check_bounds(offset, shape, stride, len(raw) // dtype.itemsize)
            return torch.frombuffer(raw, dtype=dtype).as_strided(shape, stride, offset)
    raise PickleError(f"expected a tensor, got {shown(record)}")


def is_tensor(record: Any) -> bool:
    """Whether a record is a tensor or a parameter."""
    return isinstance(record, Call) and record.name in (_TENSOR, _PARAMETER)


def read_pt(path: Path, allowed: Collection[str] = ()) -> tuple[Any, dict[str, memoryview]]:
    """Read a .pt file: the value that was saved, tensors being records, and the entries that `tensor` needs.

    Raises:
        CheckpointError: when it is no file of `torch.save`, is damaged, or asks for code.
    """
    try:
        data = files.view(path)
        if data[: len(OLD)] == OLD:
            return _old(data, TENSORS | {*allowed})
        entries = _entries(path, data)
        root = _root(entries)
        value, _ = read(entries[f"{root}data.pkl"], TENSORS | {*allowed}, MAPPINGS)
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"checkpoint {path}: not a zip archive as torch.save writes it ({error}); it is damaged or of another format"
        ) from None
    except (OSError, ValueError, OverflowError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None
    prefix = f"{root}data/"
    return value, {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}


def read_state(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Read a plain state dict out of a .pt file.

    Args:
        path: the file.
        key: the entry that holds the state dict, where the file's dictionary is not itself one.

    Raises:
        CheckpointError: as `read_pt`, and when there is no state dict.
    """
    value, entries = read_pt(path)
    held = value.get(key) if key is not None and isinstance(value, dict) else value
    if not isinstance(held, dict) or not any(is_tensor(record) for record in held.values()):
        names = ", ".join(map(shown, value)) if isinstance(value, dict) else shown(value)
        where = "" if key is None else f" under {key!r}"
        raise CheckpointError(f"checkpoint {path}: no state dict{where}; it holds {names[:200]}: give key the name of one")
    try:
        return {shown(name, 1000): tensor(record, entries) for name, record in held.items()}
    except PickleError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None


def _root(entries: Mapping[str, memoryview]) -> str:
    root = next((name.removesuffix("data.pkl") for name in entries if re.fullmatch(r"[^/]*/data\.pkl", name)), None)
    if root is None:
        raise PickleError("a zip archive without the entry data.pkl, so not of torch.save")
    if f"{root}byteorder" in entries and bytes(entries[f"{root}byteorder"][:8]) != b"little":
        raise PickleError("its numbers are big-endian; save it on a little-endian machine")
    return root


def _entries(path: Path, data: memoryview) -> dict[str, memoryview]:
    """The entries of a zip archive; compressed ones and overlaps, which zip bombs are made of, are refused."""
    entries, end = {}, 0
    with zipfile.ZipFile(path) as archive:
        listed = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if len(listed) > _MOST_ENTRIES:
        raise PickleError(f"it has {len(listed)} entries; expected at most {_MOST_ENTRIES}")
    for info in listed:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise PickleError(f"its entry {shown(info.filename)} is compressed, which torch.save never does")
        if info.header_offset < end:
            raise PickleError(f"its entry {shown(info.filename)} overlaps another")
        head = data[info.header_offset : info.header_offset + 30]
        start = info.header_offset + len(head) + sum(struct.unpack_from("<HH", head, 26))
        end = start + info.file_size
        if end > len(data):
            raise PickleError(f"its entry {shown(info.filename)} claims {info.file_size} bytes, more than the file has")
        entries[info.filename] = data[start:end]
    return entries


def _storage(record: Any, entries: Mapping[str, memoryview]) -> tuple[memoryview, torch.dtype]:
    match record:
        case Call(name=name, args=(bytes() | memoryview() as raw,)) if name == _BYTES:
            return _in_bytes(memoryview(bytearray(raw)) if isinstance(raw, bytes) else raw)
        case Call(name="persistent_id", args=(("storage", Global(), str() as key, _, int(), *views) as claim,)) if views in (
            [],
            [None],
        ):
            return _checked(claim, entries.get(key, memoryview(b"")))
    raise PickleError(f"expected a storage of numbers, got {shown(record)}")


def _in_bytes(data: memoryview) -> tuple[memoryview, torch.dtype]:
    value, entries = _old(data, _STORAGES, _LARGEST_HEAD, 100)
    if isinstance(value, Call) and value.name == "persistent_id" and entries:
        return _storage(value, entries)
    raise PickleError("a storage is not in the format of torch.save")


def _old(
    data: memoryview, allowed: Collection[str], head: int | None = None, limit: int = OPCODES
) -> tuple[Any, dict[str, memoryview]]:
    """The value and the storages of the older format, whose pickles lie within the first `head` bytes."""
    at, parts = 0, []
    for _ in range(5):
        part, at = read(data[:head], allowed, MAPPINGS, at, limit, strings="text")
        parts.append(part)
    match parts:
        case [magic, version, {"little_endian": True}, value, list(keys)] if (magic, version) == (_MAGIC, _VERSION):
            return value, _in_a_row(data[at:], keys, _itemsizes(value))
    raise PickleError("not in the format of torch.save before PyTorch 1.6")


def _in_a_row(data: memoryview, keys: list[Any], itemsizes: Mapping[str, int]) -> dict[str, memoryview]:
    """Storages one after the other, each behind its number of elements."""
    entries, at = {}, 0
    for key in keys:
        if not isinstance(key, str) or key not in itemsizes or key in entries:
            raise PickleError(f"a storage is not in the format of torch.save: its key {shown(key)} is no tensor's, or there twice")
        count = struct.unpack_from("<q", data, at)[0] if len(data) >= at + 8 else -1
        start, at = at + 8, at + 8 + count * itemsizes[key]
        if not start <= at <= len(data):
            raise PickleError(f"a storage claims {shown(count)} elements; {max(len(data) - start, 0)} bytes are there")
        entries[key] = data[start:at]
    return entries


def _itemsizes(value: Any) -> dict[str, int]:
    """Bytes an element of every storage that a value names; each part of it is looked at once, however often it is shared."""
    found, seen, left = {}, set(), [value]
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        match part:
            case Call(name="persistent_id", args=(("storage", Global(name=kind), str() as key, *_),)) if kind in _STORAGES:
                found[key] = _STORAGES[kind].itemsize
            case Call():
                left += [part.args, part.state]
            case dict():
                left += part.values()
            case list() | tuple():
                left += part
    return found


def _checked(claim: tuple[Any, ...], raw: memoryview) -> tuple[memoryview, torch.dtype]:
    kind, count = claim[1], claim[4]
    if not isinstance(kind, Global) or kind.name not in _STORAGES:
        raise PickleError(f"expected a storage of numbers, got {shown(kind)}")
    dtype = _STORAGES[kind.name]
    if type(count) is not int or count * dtype.itemsize != len(raw):
        raise PickleError(f"a storage claims {shown(count)} elements of {dtype}, but {len(raw)} bytes are there")
    return raw, dtype


def _check_bounds(offset: int, shape: Any, stride: Any, count: int) -> None:
    """A view must lie inside its storage and have no more elements: with strides of zero it could claim any size."""
    plain = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= 8
    if not plain or not all(type(number) is int and 0 <= number <= count for number in (offset, *shape, *stride)):
        raise PickleError(f"a tensor claims shape {shown(shape)} and strides {shown(stride)}, but its storage has {count} elements")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if not last < count or not 0 < math.prod(shape) <= count:
        raise PickleError(f"a tensor claims shape {shown(shape)} at {shown(offset)}, but its storage has {count} elements")
