"""Pickles read as data: a small machine that runs nothing.

A pickle is a program: its opcodes push values on a stack, and some import a name and call it. This machine knows the opcodes
that make plain data. A name is only looked up in the caller's list; where the program would call it, a `Call` is put down that
says which name and with what. Any other name, and any other opcode, is refused with its name.

A size that is claimed is compared with the bytes that are there before anything is allocated, and the opcodes are counted, so
memory is bounded by both; texts may be encoded, and lists of pairs made mappings, to no more than the file has bytes. Bytes beyond
255 are views of the file, not copies. What Python 2 wrote is read, too. Only text, bytes and small integers may be keys: nested
tuples can take exponential time to hash.

Source: the opcodes are documented in Python's own `pickletools`.
"""

from __future__ import annotations

import math
import pickletools
import re
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from snrouter.errors import PickleError

OPCODES = 1_000_000
"""Most opcodes of a pickle that is read."""

NUMPY = frozenset(
    ["numpy.dtype", "numpy.ndarray"]
    + [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
)
"""What NumPy's arrays and scalars are pickled as, read by `array` and `scalar`."""

_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_NUMBERS = {"BININT": "<i", "BININT1": "<B", "BININT2": "<H", "BINFLOAT": ">d"}
_TEXTS = {"SHORT_BINUNICODE": "<B", "BINUNICODE": "<I", "BINUNICODE8": "<Q"}
_STRINGS = {"SHORT_BINSTRING": "<B", "BINSTRING": "<i"}
_BYTES = {"SHORT_BINBYTES": "<B", "BINBYTES": "<I", "BINBYTES8": "<Q", **_STRINGS}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_GETS = {"BINGET": "<B", "LONG_BINGET": "<I"}
_PUTS = {"BINPUT": "<B", "LONG_BINPUT": "<I"}
_PROTO = b"\x80"
_SHORT = 255


@dataclass(frozen=True)
class Global:
    """A name that was looked up, and not called."""

    name: str


@dataclass(frozen=True, eq=False)
class Call:
    """What the pickle would have called, and was not: `name(*args)`, then given a state."""

    name: str
    args: tuple[Any, ...]
    state: Any = None


def read(
    data: memoryview,
    allowed: Collection[str],
    mappings: Collection[str] = (),
    start: int = 0,
    limit: int = OPCODES,
    *,
    strings: Literal["bytes", "text"] = "bytes",
) -> tuple[Any, int]:
    """Read one pickle (protocol 2 or later) as None, numbers, text, bytes, lists, tuples, dicts, sets, `Global` and `Call`.

    Args:
        data: the bytes; values may be views of them.
        allowed: full names, such as "numpy.dtype", that become `Global` or `Call`.
        mappings: full names of subclasses of dict, such as "collections.OrderedDict", that become a dict.
        start: where in the data the pickle begins.
        limit: most opcodes.
        strings: what strings of Python 2 become, which had no type for text.

    Returns:
        The value, and where the pickle ends. Persistent ids are `Call("persistent_id", (id,))`.

    Raises:
        PickleError: when it asks for another name or opcode, or is damaged.
    """
    if data[start : start + 1] not in (_PROTO, b""):
        raise PickleError("no pickle of protocol 2 or later, which begins with the byte 0x80")
    machine = _Machine(data, allowed, mappings, start, strings == "text")
    try:
        for _ in range(limit):
            if machine.step():
                return machine.pop(), machine.at
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        if isinstance(error, PickleError):
            raise
        raise PickleError(f"damaged at byte {machine.at} ({type(error).__name__}: {shown(str(error))})") from None
    raise PickleError(f"more than {limit} opcodes; no file of its kind has so many")


def array(record: Any) -> NDArray[Any]:
    """The integers that a NumPy array was pickled as, without a copy.

    Raises:
        PickleError: when the record is no array of integers, or its sizes disagree.
    """
    match record:
        case Call(state=(_, tuple(shape), dtype, bool() | 0 | 1 as fortran, bytes() | memoryview() as raw)) if record.name.endswith(
            "multiarray._reconstruct"
        ):
            kind = _dtype(dtype, "iu")
            if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) * kind.itemsize != len(raw):
                raise PickleError(f"an array claims shape {shown(shape)} of {kind}, but {len(raw)} bytes are there")
            return np.frombuffer(raw, kind).reshape(shape, order="F" if fortran else "C")
    raise PickleError(f"expected a NumPy array, got {shown(record)}")


def scalar(record: Any) -> Any:
    """A plain value: the number that a NumPy scalar was pickled as, or the value itself.

    Raises:
        PickleError: when a NumPy scalar is none of a number.
    """
    if not (isinstance(record, Call) and record.name.endswith("multiarray.scalar")):
        return record
    match record.args:
        case (dtype, bytes() as raw):
            kind = _dtype(dtype, "iuf")
            if len(raw) == kind.itemsize:
                return np.frombuffer(raw, kind).item()
    raise PickleError(f"expected a NumPy scalar, got {shown(record)}")


def shown(value: object, limit: int = 80) -> str:
    """A value in an error: one line, bounded, whatever a hostile file put there."""
    match value:
        case str():
            text = value[: limit + 1]
            text = text if text.isprintable() else ascii(text)
        case Call() | Global():
            text = value.name
        case bool() | None | float() | bytes():
            text = repr(value)
        case int():
            text = str(value) if value.bit_length() < 256 else f"an integer of {value.bit_length()} bits"
        case tuple() | list() | memoryview() if len(value) < 9 and all(type(item) in (int, float) for item in value):
            text = f"[{', '.join(shown(item) for item in value)}]"
        case _:
            text = f"a {type(value).__name__}"
    return text if len(text) <= limit else text[:limit] + "..."


def quoted(value: object) -> str:
    """As `shown`, a text in quotes."""
    return repr(shown(value)) if isinstance(value, str) else shown(value)


def _dtype(record: Any, kinds: str) -> np.dtype[Any]:
    match record:
        case Call(name="numpy.dtype", args=(bytes() | str() as code, *_), state=(_, bytes() | str() as order, *_)):
            code, order = (word if isinstance(word, str) else word.decode("latin-1") for word in (code, order))
            if re.fullmatch(f"[{kinds}][1248]", code) and code != "f1" and order in "<>|=":
                return np.dtype(order + code)
            raise PickleError(f"a NumPy type {shown(order + code)}; read are numbers of the kinds {', '.join(kinds)}")
    raise PickleError(f"expected a NumPy type, got {shown(record)}")


class _Machine:
    """The stack, the memo, and where in the data it is."""

    def __init__(self, data: memoryview, allowed: Collection[str], mappings: Collection[str], start: int, text: bool) -> None:
        self.data, self.allowed, self.mappings, self.at = data, allowed, mappings, start
        self.texts = _TEXTS | _STRINGS if text else _TEXTS
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each MARK
        self.memo: dict[int, Any] = {}
        self.copied = 0  # characters of texts that were encoded, pairs that were made mappings

    def step(self) -> bool:
        """Execute one opcode; whether it was the last."""
        code = self.number("<B")
        name = _NAMES.get(code, f"0x{code:02x}")
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _NUMBERS:
            self.stack.append(self.number(_NUMBERS[name]))
        elif name in self.texts:
            self.stack.append(str(self.take(self.number(self.texts[name])), "utf-8"))
        elif name in _BYTES:
            raw = self.take(self.number(_BYTES[name]))
            self.stack.append(bytes(raw) if len(raw) <= _SHORT else raw)
        elif name in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[name])]
            self.stack.append((*reversed(items),))
        elif name in _GETS:
            self.stack.append(self.memo[self.number(_GETS[name])])
        elif name in _PUTS:
            self.memo[self.number(_PUTS[name])] = self.stack[-1]
        elif name != "STOP":
            getattr(self, f"op_{name.lower()}", lambda: self.refuse(f"the opcode {name}"))()
        return name == "STOP"

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def take(self, count: int) -> memoryview:
        left = len(self.data) - self.at
        if not 0 <= count <= left:
            raise PickleError(f"truncated or damaged at byte {self.at}: it claims {count} bytes more, {left} are there")
        self.at += count
        return self.data[self.at - count : self.at]

    def line(self) -> str:
        text, newline, _ = bytes(self.data[self.at : self.at + _SHORT]).partition(b"\n")
        if not newline:
            raise PickleError(f"damaged at byte {self.at}: no name ends there")
        self.at += len(text) + 1
        return str(text, "utf-8")

    def pop(self) -> Any:
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def refuse(self, what: str) -> NoReturn:
        raise PickleError(f"asks for {what} at byte {self.at}, which is not read; no code of it was run")

    def found(self, module: object, name: object) -> Global:
        full = f"{shown(module)}.{shown(name)}"
        if full not in self.allowed and full not in self.mappings and full != "_codecs.encode":
            self.refuse(full)
        return Global(full)

    # --- what each of the other opcodes does ---------------------------------------------------------------------

    def op_proto(self) -> None:
        self.take(1)

    def op_frame(self) -> None:
        self.take(8)

    def op_long1(self) -> None:
        self.stack.append(int.from_bytes(self.take(self.number("<B")), "little", signed=True))

    def op_mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def op_pop_mark(self) -> None:
        self.since_mark()

    def op_pop(self) -> None:
        self.pop()

    def op_dup(self) -> None:
        self.stack.append(self.stack[-1])

    def op_memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_tuple(self) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items))

    def op_list(self) -> None:
        items = self.since_mark()
        self.stack.append(items)

    def op_dict(self) -> None:
        items = self.since_mark()
        self.stack.append({})
        self.fill(items)

    def op_frozenset(self) -> None:
        items = self.since_mark()
        self.stack.append(frozenset(self.key(item) for item in items))

    def op_append(self) -> None:
        item = self.pop()
        self.target(list).append(item)

    def op_appends(self) -> None:
        items = self.since_mark()
        self.target(list).extend(items)

    def op_additems(self) -> None:
        items = self.since_mark()
        self.target(set).update(self.key(item) for item in items)

    def op_setitem(self) -> None:
        value, key = self.pop(), self.pop()
        self.fill([key, value])

    def op_setitems(self) -> None:
        items = self.since_mark()
        self.fill(items)

    def op_global(self) -> None:
        self.stack.append(self.found(self.line(), self.line()))

    def op_stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(self.found(module, name))

    def op_inst(self) -> None:
        self.refuse(f"an instance of {shown(self.line())}.{shown(self.line())}")

    def op_binpersid(self) -> None:
        self.stack.append(Call("persistent_id", (self.pop(),)))

    def op_reduce(self) -> None:
        args, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(args, tuple):
            self.refuse(f"a call of {shown(function)} with {shown(args)}")
        self.stack.append(self.called(function.name, args))

    op_newobj = op_reduce

    def op_build(self) -> None:
        state = self.pop()
        if type(self.stack[-1]) is not dict:  # the attributes of a mapping are not kept
            call = self.target(Call)
            if call.state is not None:
                self.refuse(f"a second state of {call.name}")
            object.__setattr__(call, "state", state)

    def called(self, name: str, args: tuple[Any, ...]) -> Any:
        if name in self.mappings:
            match args:
                case ():
                    return {}
                case (list() as pairs,):  # how Python 2 spells its items
                    self.count(len(pairs), f"{name} of one list again and again")
                    return {self.key(key): value for key, value in pairs}
            self.refuse(f"{name} with arguments")
        if name == "_codecs.encode":  # how protocol 2 spells bytes
            match args:
                case (str() as text, "latin1"):
                    self.count(len(text), f"{name} of one text again and again")
                    return text.encode("latin-1")
            self.refuse("_codecs.encode of what is not latin1")
        return Call(name, args)

    def count(self, size: int, what: str) -> None:
        """Copies may hold no more than the file has bytes."""
        self.copied += size
        if self.copied > len(self.data):
            self.refuse(what)

    def target(self, kind: type[Any]) -> Any:
        if type(self.stack[-1]) is not kind:
            self.refuse(f"items or a state for {shown(self.stack[-1])}")
        return self.stack[-1]

    def fill(self, items: list[Any]) -> None:
        target = self.target(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self.key(key)] = value

    def key(self, key: Any) -> Any:
        if not isinstance(key, (str, bytes, type(None))) and not (isinstance(key, int) and key.bit_length() < 60):
            self.refuse(f"{shown(key)} as a key")
        return key
