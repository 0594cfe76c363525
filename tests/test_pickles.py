"""Pickles are read as data: plain values come back, hostile programs are named and run nothing, and claims allocate nothing."""

import os
import pickle
import pickletools
import struct
import tracemalloc
from collections import OrderedDict
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snrouter.errors import PickleError
from snrouter.pickles import NUMPY, Call, Global, array, read, scalar

KEYS = st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.text(max_size=300) | st.binary(max_size=200)
LEAVES = KEYS | st.floats(allow_nan=False) | st.integers(-(2**200), 2**200)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.lists(inner, min_size=4, max_size=6).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
    ),
    max_leaves=10,
)


def value_of(program: bytes, allowed=(), mappings=()):
    return read(memoryview(program), allowed, mappings)[0]


@given(VALUES, st.sampled_from([4, 5]))
def test_plain_data_comes_back(value, protocol):
    assert value_of(pickle.dumps(value, protocol)) == value


@given(st.dictionaries(st.text(), st.lists(st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.booleans())))
def test_plain_data_of_older_protocols_comes_back(value):
    for protocol in (2, 3):
        assert value_of(pickle.dumps(value, protocol)) == value


def test_what_is_shared_or_inside_itself_stays_so():
    value = {"a": [1]}
    value["b"], value["itself"] = value["a"], value
    got = value_of(pickle.dumps(value))
    assert got["a"] is got["b"]
    assert got["itself"] is got


def test_bytes_are_views_when_long_and_python_2_text_is_bytes():
    data = bytearray(pickle.dumps({"raw": b"x" * 300}))
    view = value_of(data)["raw"]
    data[data.index(b"xx")] = ord("y")
    assert bytes(view) == b"y" + b"x" * 299
    assert value_of(b"\x80\x02}q\x01(U\x04dataT\x03\x00\x00\x00\xff\x00\x01u.") == {b"data": b"\xff\x00\x01"}


def test_an_allowed_call_is_a_record_and_a_subclass_of_dict_is_a_dict():
    value = value_of(pickle.dumps([OrderedDict(a=1), np.float64(0.25), np.dtype]), NUMPY, {"collections.OrderedDict"})
    assert value[0] == {"a": 1}
    assert isinstance(value[1], Call)
    assert value[2] == Global("numpy.dtype")
    assert scalar(value[1]) == 0.25
    assert scalar("word") == "word"


@pytest.mark.parametrize("dtype", ["uint8", "int8", ">i2", "<u4", "int64"])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_of_integers_come_back(dtype, protocol):
    value = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for each in (value, np.asfortranarray(value)):
        got = array(value_of(pickle.dumps(each, protocol), NUMPY))
        assert got.dtype == value.dtype
        assert np.array_equal(got, value)


# --- hostile ---------------------------------------------------------------------------------------------------------


class Reduces:
    def __init__(self, *reduction):
        self.reduction = reduction

    def __reduce__(self):
        return self.reduction


def nested_tuples(count: int) -> bytes:
    """A tuple of the same tuple twice, and so on: its hash would take 2^count steps."""
    return b"\x80\x04}K\x01\x85" + b"2\x86" * count + b"K\x01s."


def test_strings_and_mappings_of_python_2_are_read():
    program = b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01eU\x01bU\x02\xc3\xa9\x86e\x85R."
    assert value_of(program, (), {"collections.OrderedDict"}) == {b"a": 1, b"b": "é".encode()}
    assert read(memoryview(program), (), {"collections.OrderedDict"}, strings="text")[0] == {"a": 1, "b": "é"}


def again_and_again(size: int, times: int) -> bytes:
    """A memoised text that is encoded to bytes, again with every three bytes of the pickle."""
    text = b"X" + struct.pack("<I", size) + b"a" * size
    return b"\x80\x02(c_codecs\nencode\nq\x00" + text + b"X\x06\x00\x00\x00latin1\x86q\x01R" + b"h\x00h\x01R" * times + b"l."


def pairs_again_and_again(size: int, times: int) -> bytes:
    """A memoised list of pairs that is made a mapping, again with every five bytes of the pickle."""
    pairs = b"](" + b"".join(b"K\x01N\x86" for _ in range(size)) + b"e"
    return b"\x80\x02(ccollections\nOrderedDict\nq\x00" + pairs + b"\x85q\x01R" + b"h\x00h\x01R" * times + b"l."


COMMAND = "touch ran"
HOSTILE = {
    "a call of os.system": (pickle.dumps(Reduces(os.system, (COMMAND,))), r"asks for (posix|nt)\.system"),
    "a call of eval": (pickle.dumps(Reduces(eval, ("open('ran', 'w')",))), r"asks for builtins\.eval"),
    "a call inside allowed ones": (
        pickle.dumps([OrderedDict(a=[Reduces(exec, ("open('ran', 'w')",))])]),
        r"asks for builtins\.exec",
    ),
    "protocol 0": (b"cos\nsystem\n(S'touch ran'\ntR.", "no pickle of protocol 2 or later"),
    "text": (b"this is no pickle", "no pickle of protocol 2 or later, which begins with the byte 0x80"),
    "STRING": (b"\x80\x02cos\nsystem\n(S'touch ran'\ntR.", r"asks for os\.system"),
    "INST": (b"\x80\x02(S'touch ran'\nios\nsystem\n.", "asks for the opcode STRING"),
    "INST of protocol 2": (b"\x80\x02(X\x09\x00\x00\x00touch ranios\nsystem\n.", r"asks for an instance of os\.system"),
    "OBJ": (b"\x80\x02(cos\nsystem\nX\x09\x00\x00\x00touch rano.", r"asks for os\.system"),
    "OBJ of an allowed name": (b"\x80\x02(ccollections\nOrderedDict\no.", r"asks for the opcode OBJ"),
    "NEWOBJ": (b"\x80\x02cos\nsystem\n)\x81.", r"asks for os\.system"),
    "NEWOBJ_EX": (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", r"asks for the opcode NEWOBJ_EX"),
    "a dotted name": (
        b"\x80\x04\x8c\x0bcollections\x8c\x15OrderedDict.__init__.\x93.",
        r"asks for collections\.OrderedDict\.__init__",
    ),
    "a name with a newline": (b"\x80\x04\x8c\x02os\x8c\x08sys\ntem\x1b\x93.", r"asks for os\.'sys\\ntem\\x1b'"),
    "names that are not text": (b"\x80\x04]K\x01\x93.", r"asks for \[\]\.1"),
    "a call of a text": (b"\x80\x04\x8c\x09os.system\x8c\x01x\x85R.", r"asks for a call of os\.system"),
    "a call with a list": (b"\x80\x04ccollections\nOrderedDict\n]R.", r"asks for a call of collections\.OrderedDict"),
    "a state for a class": (b"\x80\x04ccollections\nOrderedDict\n}b.", r"a state for collections\.OrderedDict"),
    "an extension of copyreg": (b"\x80\x02\x82\x01.", r"asks for the opcode EXT1"),
    "a persistent id in text": (b"\x80\x02Px\n.", r"asks for the opcode PERSID"),
    "a huge BINBYTES8": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", f"claims {2**62} bytes more, 2 are there"),
    "a huge BINUNICODE8": (b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x.", f"claims {2**63} bytes more"),
    "a negative BINSTRING": (b"\x80\x02T" + struct.pack("<i", -5) + b"x.", "claims -5 bytes more"),
    "a huge FRAME": (b"\x80\x04\x95" + struct.pack("<Q", 2**40), "truncated or damaged"),
    "a huge LONG4": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\xff.", "asks for the opcode LONG4"),
    "a huge LONG": (b"\x80\x02L" + b"9" * 100_000 + b"L\n.", "asks for the opcode LONG"),
    "a text encoded again and again": (again_and_again(20_000, 3000), "asks for _codecs.encode of one text again and again"),
    "pairs made a mapping again and again": (pairs_again_and_again(3000, 3000), r"OrderedDict of one list again and again"),
    "a mapping of what are no pairs": (b"\x80\x02ccollections\nOrderedDict\n]K\x01a\x85R.", "damaged"),
    "a mapping of a number": (
        b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.",
        r"asks for collections\.OrderedDict with arguments",
    ),
    "a mapping with tuples as keys": (b"\x80\x02ccollections\nOrderedDict\n])K\x01\x86a\x85R.", r"asks for \[\] as a key"),
    "a huge BYTEARRAY8": (b"\x80\x05\x96" + struct.pack("<Q", 2**50) + b".", "asks for the opcode BYTEARRAY8"),
    "a missing memo entry": (b"\x80\x04j\xff\xff\xff\xff.", "damaged at byte 7"),
    "nested tuples as a key": (nested_tuples(60), "asks for a tuple as a key"),
    "nested tuples in a set": (b"\x80\x04\x8f(K\x01\x85" + b"2\x86" * 60 + b"\x90.", "asks for a tuple as a key"),
    "integers that hash alike": (b"\x80\x04}\x8a\x08" + (2**61 - 1).to_bytes(8, "little") + b"K\x01s.", "as a key"),
    "an empty stack": (b"\x80\x04R.", "damaged at byte 3"),
    "no mark": (b"\x80\x04t.", "damaged at byte 3"),
    "an odd number of items": (b"\x80\x04}(K\x01u.", "damaged"),
    "items for a number": (b"\x80\x04K\x01K\x02a.", "items or a state for 1"),
    "a name without end": (b"\x80\x02c" + b"a" * 10_000, "no name ends there"),
    "text that is none": (b"\x80\x04\x8c\x02\xff\xfe.", "damaged"),
    "an unknown opcode": (b"\x80\x04\xff.", "asks for the opcode 0xff"),
    "garbage": (bytes(range(128, 256)) * 20, "damaged|asks for"),
    "nothing": (b"", "truncated or damaged at byte 0"),
    "a truncated one": (pickle.dumps([1, "abc", {"d": b"x" * 5000}])[:-1000], "truncated or damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_by_name_and_runs_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, message = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(PickleError, match=message) as error:
            value_of(program, {"collections.OrderedDict"}, {"collections.OrderedDict"})
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
    assert not [*tmp_path.iterdir()]


def test_opcodes_are_counted():
    assert read(memoryview(b"\x80\x04NNN."), (), limit=5) == (None, 6)
    with pytest.raises(PickleError, match="more than 4 opcodes"):
        read(memoryview(b"\x80\x04NNN."), (), limit=4)


def test_a_huge_memo_index_costs_nothing():
    tracemalloc.start()
    assert value_of(b"\x80\x04K\x07r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 7
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_what_is_nested_deeply_is_read_and_dropped():
    deep = value_of(b"\x80\x04" + b"]" * 20_000 + b"a" * 19_999 + b".")
    assert len(deep) == 1
    del deep
    call = value_of(b"\x80\x04" + b"cnumpy\ndtype\n" * 20_000 + b"N" + b"\x85R" * 20_000 + b".", NUMPY)
    assert call.name == "numpy.dtype"
    del call


@given(st.data())
def test_a_damaged_pickle_is_an_error_or_data(data):
    program = bytearray(pickle.dumps({"a": [1.5, np.arange(3)], "b": (np.float32(2), {"c"}, b"x" * 300)}))
    for _ in range(data.draw(st.integers(1, 4))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    with suppress(PickleError):
        value_of(program, NUMPY)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([0.5]), "a NumPy type <f8"),
        (np.array([None]), "expected a NumPy array"),
        (np.array(["text"]), "a NumPy type <U4"),
        (np.array([True]), "a NumPy type"),
        ({"a": 1}, "expected a NumPy array, got a dict"),
        (np.float64(1), r"expected a NumPy array, got numpy\._?core\.multiarray\.scalar"),
    ],
)
def test_an_array_of_anything_but_integers_is_refused(value, message):
    record = value_of(pickle.dumps(value), NUMPY)
    with pytest.raises(PickleError, match=message):
        array(record)


@pytest.mark.parametrize("shape", [(2, 2), (2**40, 2**40), (-1, -4), (4.0,), (True, 4), "abc"])
def test_an_array_whose_sizes_disagree_is_refused(shape):
    version, _, dtype, order, raw = value_of(pickle.dumps(np.zeros(5, np.uint8)), NUMPY).state
    with pytest.raises(PickleError, match=r"claims shape|expected a NumPy array"):
        array(Call("numpy.core.multiarray._reconstruct", (), (version, shape, dtype, order, raw)))


def test_opcodes_that_are_handled_exist():
    from snrouter import pickles

    known = {opcode.name for opcode in pickletools.opcodes}
    tables = (pickles._CONSTANTS, pickles._EMPTY, pickles._NUMBERS, pickles._TEXTS, pickles._BYTES, pickles._TUPLES)
    handled = {name for table in (*tables, pickles._GETS, pickles._PUTS) for name in table}
    handled |= {name.removeprefix("op_").upper() for name in dir(pickles._Machine) if name.startswith("op_")}
    assert handled <= known
