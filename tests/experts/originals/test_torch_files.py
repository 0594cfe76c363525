"""Tensors in .pt files and pickles: those that PyTorch wrote come back; claims beyond the bytes, bombs and code are refused."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch

from snrouter.errors import CheckpointError, PickleError
from snrouter.experts.originals.torch_files import MAPPINGS, TENSORS, read_pt, read_state, tensor
from snrouter.pickles import Call, Global, read

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]  # fmt: skip
BASE = torch.arange(24, dtype=torch.float32)
VIEWS = [BASE.reshape(2, 3, 4), BASE.reshape(4, 6).t(), BASE[5:17:3], BASE.reshape(4, 6)[1:3, 2:4], torch.tensor(3.0)]


def pickled(value) -> Call:
    return read(memoryview(bytearray(pickle.dumps(value))), TENSORS, MAPPINGS)[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_come_back_from_pickles_and_files(tmp_path, dtype):
    torch.save({"a": [view.to(dtype) for view in VIEWS]}, tmp_path / "x.pt")
    value, entries = read_pt(tmp_path / "x.pt")
    for view, record in zip(VIEWS, value["a"], strict=True):
        for got in (tensor(record, entries), tensor(pickled(view.to(dtype)))):
            assert got.dtype == dtype
            assert torch.equal(got, view.to(dtype))


def test_views_parameters_and_shared_storages_come_back(tmp_path):
    torch.save([*VIEWS, torch.nn.Parameter(BASE), torch.nn.Parameter(BASE[2:4], requires_grad=False)], tmp_path / "x.pt")
    value, entries = read_pt(tmp_path / "x.pt")
    got = [tensor(record, entries) for record in value]
    assert all(torch.equal(one, view) for one, view in zip(got, [*VIEWS, BASE, BASE[2:4]], strict=True))
    assert not any(one.requires_grad for one in got)
    assert all(torch.equal(tensor(pickled(view)), view) for view in [*VIEWS, torch.nn.Parameter(BASE)])


def test_what_is_written_into_a_tensor_stays_out_of_the_file(tmp_path):
    torch.save([BASE], tmp_path / "x.pt")
    before = (tmp_path / "x.pt").read_bytes()
    value, entries = read_pt(tmp_path / "x.pt")
    tensor(value[0], entries).zero_()
    assert (tmp_path / "x.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": 1}, "claims shape \\[24\\] at 1, but its storage has 24 elements"),
        ({"offset": -1}, "claims shape"),
        ({"shape": (2**40,)}, "claims shape"),
        ({"shape": (2**40,), "stride": (0,)}, "claims shape"),
        ({"shape": (5, 5), "stride": (0, 0)}, "claims shape"),
        ({"shape": (2**32, 2**32, 0), "stride": (1, 1, 1)}, "claims shape"),
        ({"shape": (0,)}, "claims shape"),
        ({"shape": (1,), "stride": (2**62,)}, "claims shape"),
        ({"shape": (-24,)}, "claims shape"),
        ({"shape": (24.0,)}, "claims shape"),
        ({"shape": [24]}, "claims shape"),
        ({"shape": (24, 1)}, "claims shape"),
        ({"shape": (1,) * 9, "stride": (1,) * 9}, "claims shape"),
        ({"storage": None}, "a storage of numbers, got None"),
        ({"storage": Call("torch.storage._load_from_bytes", (b"abc",))}, "no pickle of protocol 2"),
    ],
)
def test_a_tensor_that_claims_what_its_storage_has_not_is_refused(change, message):
    storage, offset, shape, stride, *rest = pickled(BASE).args
    held = {"storage": storage, "offset": offset, "shape": shape, "stride": stride} | change
    with pytest.raises(PickleError, match=message):
        tensor(Call("torch._utils._rebuild_tensor_v2", (*held.values(), *rest)))


@pytest.mark.parametrize("count", [-1, 1, 2**62, True, "x"])
@pytest.mark.parametrize("kind", ["torch.FloatStorage", "torch.ByteStorage", "torch.nn.Module"])
def test_a_storage_that_claims_what_its_bytes_are_not_is_refused(count, kind):
    storage = Call("persistent_id", (("storage", Global(kind), "0", "cpu", count),))
    with pytest.raises(PickleError, match=r"storage"):
        tensor(Call("torch._utils._rebuild_tensor_v2", (storage, 0, (1,), (1,))), {"0": memoryview(bytearray(8))})
    with pytest.raises(PickleError, match=r"storage"):
        tensor(Call("torch._utils._rebuild_tensor_v2", (storage, 0, (1,), (1,))), {})


def legacy(value) -> bytearray:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=False)
    return bytearray(stream.getvalue())


def in_bytes(raw) -> torch.Tensor:
    storage = Call("torch.storage._load_from_bytes", (memoryview(raw),))
    return tensor(Call("torch._utils._rebuild_tensor_v2", (storage, 0, (24,), (1,))))


class Attack:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_storage_in_bytes_is_checked_like_any_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = legacy(torch.storage.TypedStorage(wrap_storage=BASE.untyped_storage(), dtype=torch.float32, _internal=True))
    assert torch.equal(in_bytes(raw), BASE)
    huge = raw.replace(struct.pack("<q", 24) + BASE.numpy().tobytes()[:8], struct.pack("<q", 2**60) + BASE.numpy().tobytes()[:8])
    for damaged, message in (
        (huge, f"claims {2**60} elements; 96 bytes are there"),
        (raw[:-4], "claims 24 elements; 92 bytes are there"),
        (raw[: len(raw) // 3], "damaged"),
        (legacy([1, 2]), "not in the format|truncated|damaged"),
        (pickle.dumps(Attack()) + raw, r"asks for (posix|nt)\.system"),
        (legacy({"a": BASE}), "asks for torch._utils._rebuild_tensor_v2|asks for collections"),
        (raw.replace(b"little_endianq", b"little_indianq"), "not in the format"),
        (raw.replace(b"FloatStorage", b"FlootStorage"), "asks for torch.FlootStorage"),
    ):
        with pytest.raises(PickleError, match=message):
            in_bytes(bytearray(damaged))
    assert not (tmp_path / "ran").exists()


# --- .pt files -------------------------------------------------------------------------------------------------------


def archive(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = archive(tmp_path / "x.pt", {"x/data.pkl": pickle.dumps({}), "x/data/0": bytes(10**7)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match=r"its entry x/data\S+ is compressed, which torch.save never does"):
        read_pt(path)


def test_entries_that_overlap_or_claim_more_than_the_file_are_refused(tmp_path):
    path = archive(tmp_path / "x.pt", {"x/data.pkl": pickle.dumps({}), "x/data/0": bytes(1000)})
    content = path.read_bytes()
    size = struct.pack("<II", 1000, 1000)
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, struct.pack("<II", 2**31, 2**31)))
    with pytest.raises(CheckpointError, match=f"its entry x/data/0 claims {2**31} bytes, more than the file has"):
        read_pt(path)
    with zipfile.ZipFile(path := tmp_path / "y.pt", "w") as file:
        file.writestr("x/data.pkl", pickle.dumps({}))
        file.writestr("x/data/0", bytes(10_000))
        for i in range(1, 5):  # the same bytes under other names
            file.filelist.append(info := zipfile.ZipInfo(f"x/data/{i}"))
            info.header_offset, info.file_size, info.compress_size, info.CRC = file.filelist[1].header_offset, 10_000, 10_000, 0
    with pytest.raises(CheckpointError, match="its entry x/data/1 overlaps another"):
        read_pt(path)


def test_entries_that_overlap_in_part_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", pickle.dumps({}))
        file.writestr("x/data/0", bytes(10_000))
        place = file.filelist[1].header_offset
        file.filelist.append(info := zipfile.ZipInfo("x/data/1"))
        info.header_offset, info.file_size, info.compress_size, info.CRC = place + 200, 5000, 5000, 0
    with pytest.raises(CheckpointError, match="its entry x/data/1 overlaps another"):
        read_pt(path)


@pytest.mark.parametrize("offset", [2**31, 2**63 - 1])
def test_an_absurd_offset_is_refused(tmp_path, offset):
    with zipfile.ZipFile(path := tmp_path / "x.pt", "w") as file:
        file.writestr("x/data.pkl", pickle.dumps({}))
        file.filelist[0].header_offset = offset
    with pytest.raises(CheckpointError, match=r"x\.pt: ") as error:
        read_pt(path)
    assert "\n" not in str(error.value)


def test_the_number_of_entries_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("snrouter.experts.originals.torch_files._MOST_ENTRIES", 5)
    path = archive(tmp_path / "x.pt", {"x/data.pkl": pickle.dumps({}), **{f"x/{i}": b"" for i in range(5)}})
    with pytest.raises(CheckpointError, match="it has 6 entries; expected at most 5"):
        read_pt(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"x/data.pkl": pickle.dumps(Attack())}, r"asks for (posix|nt)\.system at byte \d+"),
        ({"x/data.pkl": pickle.dumps({"state": OrderedDict(a=[Attack()])})}, r"asks for (posix|nt)\.system"),
        ({"x/code.py": b"open('ran', 'w')"}, "without the entry data.pkl"),
        ({"x/data.pkl": pickle.dumps({}), "x/byteorder": b"big"}, "big-endian"),
        ({"x/data.pkl": b"\x80\x04"}, "truncated or damaged"),
    ],
)
def test_code_and_other_archives_are_refused(tmp_path, monkeypatch, entries, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        read_pt(archive(tmp_path / "x.pt", entries))
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + b"x" * 100, b"garbage" * 100, pickle.dumps(Attack())])
def test_what_is_no_archive_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not a zip archive as torch\.save writes it"):
        read_pt(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_a_truncated_archive_is_refused(tmp_path):
    torch.save({"a": BASE}, path := tmp_path / "x.pt")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"x\.pt: "):
        read_pt(path)


def test_a_state_dict_is_found_where_it_is_said_to_be(tmp_path):
    torch.save({"state_dict": {"a": BASE}, "epoch": 3}, tmp_path / "x.pt")
    assert torch.equal(read_state(tmp_path / "x.pt", "state_dict")["a"], BASE)
    with pytest.raises(CheckpointError, match="no state dict; it holds state_dict, epoch: give key the name of one"):
        read_state(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no state dict under 'epoch'"):
        read_state(tmp_path / "x.pt", "epoch")
    torch.save({"a": BASE, "note": "text"}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="expected a tensor, got text"):
        read_state(tmp_path / "x.pt")


# --- .pt files from before PyTorch 1.6 -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.int64])
def test_files_in_the_older_format_come_back_too(tmp_path, dtype):
    state = {"base": BASE.to(dtype), "view": BASE.to(dtype).reshape(4, 6).t(), "other": torch.nn.Parameter(BASE[2:9:3] + 1)}
    (path := tmp_path / "x.pth").write_bytes(legacy(OrderedDict(state)))
    got = read_state(path)
    assert got.keys() == state.keys()
    assert all(torch.equal(got[name], state[name]) for name in state)
    path.write_bytes(legacy({"state_dict": state, "epoch": 3}))
    assert torch.equal(read_state(path, "state_dict")["view"], state["view"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-4], "claims 24 elements; 92 bytes are there"),
        (lambda raw: raw[: len(raw) - 100], "claims -1 elements; 0 bytes are there"),
        (lambda raw: raw.replace(struct.pack("<q", 24), struct.pack("<q", 2**60)), f"claims {2**60} elements; 96 bytes are there"),
        (lambda raw: raw.replace(struct.pack("<q", 24), struct.pack("<q", -24)), "claims -24 elements"),
        (
            lambda raw: raw.replace(struct.pack("<q", 24), struct.pack("<q", 23)),
            "claims 24 elements of torch.float32, but 92 bytes",
        ),
        (lambda raw: raw.replace(b"little_endianq", b"little_indianq"), "not in the format of torch.save before"),
        (lambda raw: raw[: len(raw) // 2], "x.pth: .*(damaged|claims)"),
        (lambda raw: raw[:15] + pickle.dumps(Attack()) + raw[15:], r"asks for (posix|nt)\.system"),
        (lambda raw: raw[:15] + legacy([Attack()])[15:], r"asks for (posix|nt)\.system"),
    ],
)
def test_damage_and_code_in_the_older_format_are_refused(tmp_path, monkeypatch, damage, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pth").write_bytes(damage(legacy({"a": BASE})))
    with pytest.raises(CheckpointError, match=message) as error:
        read_state(tmp_path / "x.pth")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keys", [["0", "0"], [["0"]], [1], ["x"]])
def test_storages_that_nothing_names_are_refused_in_the_older_format(tmp_path, keys):
    before, after = legacy({"a": BASE}).split(b"\x80\x02]", 1)
    (tmp_path / "x.pth").write_bytes(before + pickle.dumps(keys, protocol=2) + after[after.index(b".") + 1 :])
    with pytest.raises(CheckpointError, match="is no tensor's, or there twice"):
        read_state(tmp_path / "x.pth")
