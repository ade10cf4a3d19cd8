"""Files of torch.save: those of PyTorch, those written for it, the damaged and the hostile."""

import io
import pathlib
import pickle
import shutil
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from rae_jax.weights.errors import WeightFileError
from rae_jax.weights.torch_files import read_torch, require_checksums, write_torch

FILES = pathlib.Path(__file__).parent / "torch_files"
BASE = np.arange(24, dtype=np.float32)


def dtype(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def assert_same(read, expected):
    assert set(read) == set(expected)
    for key, array in expected.items():
        assert read[key].dtype == array.dtype, key
        assert read[key].shape == array.shape, key
        assert read[key].tobytes() == array.tobytes(), key


def test_every_element_type():
    read = read_torch(FILES / "dtypes.pt")
    expected = {
        name: np.array([1, 2, 4, 8, 16, 32]).astype(dtype(name)) for name in read if name != "bool"
    }
    expected["bool"] = np.array([True, False, True, True, False, False])
    assert len(expected) == 20
    assert_same(read, expected)


def test_every_layout():
    grid = BASE.reshape(4, 6)
    last = np.arange(16, dtype=np.float32).reshape(1, 2, 2, 4)
    expected = {
        "whole": grid,
        "transposed": grid.T,
        "strided": grid[1::2, ::3],
        "offset": BASE[5:9],
        "scalar": BASE[7:8].reshape(()),
        "repeated": np.broadcast_to(BASE[:3].reshape(3, 1), (3, 2)),
        "empty": np.zeros((0, 3), np.float32),
        "no_rows": grid[:0],
        "channels_last": last,
        "parameter": BASE[:2],
    }
    read = read_torch(FILES / "layouts.pt")
    assert_same(read, expected)
    # Views of the mapped file, which nothing can write to, and of one storage.
    assert not read["whole"].flags.writeable
    assert np.shares_memory(read["whole"], read["transposed"])
    assert read["transposed"].strides == (4, 24)


def test_a_training_checkpoint():
    read = read_torch(str(FILES / "training.pt"))
    assert set(read) == {"model", "ema", "opt", "epoch", "betas", "note", "size"}
    weight, bias = BASE[:6].reshape(3, 2), BASE[6:9]
    prefix = "module._orig_mod."
    assert_same(read["model"], {f"{prefix}weight": weight, f"{prefix}bias": bias})
    assert_same(read["ema"], {"weight": weight + 1, "bias": bias + 1})
    assert (read["epoch"], read["betas"], read["note"], read["size"]) == (
        3,
        (0.9, 0.95),
        None,
        (2, 3),
    )
    assert read["opt"]["param_groups"][0]["lr"] == 1e-3
    np.testing.assert_array_equal(read["opt"]["state"][1]["step"], np.float32(1))


@pytest.mark.parametrize("name", ["metadata", "protocol_4", "no_checksums"])
def test_other_ways_to_save(name):
    read = read_torch(FILES / f"{name}.pt")
    shapes = {key: array.shape for key, array in read.items()}
    assert shapes == ({"weight": (3, 2), "bias": (3,)} if name == "metadata" else {"a": (2,)})
    require_checksums(FILES / f"{name}.pt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("refused_namespace", "asks for 'argparse.Namespace', which is neither a tensor nor"),
        ("refused_numpy", "asks for 'numpy._core.multiarray.scalar'"),
        ("refused_device", "asks for 'torch.device'"),
        ("refused_dtype", "asks for 'torch.float32'"),
        ("refused_set", "asks for '__builtin__.set'"),
        ("refused_bytes", "asks for '_codecs.encode'"),
        ("refused_meta", "asks for 'torch._utils._rebuild_meta_tensor_no_storage'"),
        ("refused_sparse", "asks for 'torch._utils._rebuild_sparse_tensor'"),
        ("refused_quantized", "asks for 'torch._utils._rebuild_qtensor'"),
        ("refused_module", "asks for 'torch.nn.modules.linear.Linear'"),
        ("refused_complex32", "asks for 'torch.complex32'"),
        ("refused_conjugate", r"pending operations \['conj'\]; save tensor.resolve_conj"),
        ("refused_storage", "holds _Storage by itself"),
        ("script", "is a TorchScript program; save the model's state_dict"),
        ("legacy_tar", r"the format of PyTorch before 0.1.10; .*torch.save\(torch.load\(OLD"),
    ],
)
def test_what_is_refused_is_named(name, message):
    with pytest.raises(WeightFileError, match=rf"{name}.pt cannot be read: .*{message}"):
        read_torch(FILES / f"{name}.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no file of torch.save"),
        (b"PK", "is no file of torch.save"),
        (b"<!doctype html>", "looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (pickle.dumps({"a": 1}), "is a pickle without tensors' records"),
        (struct.pack("<Q", 2) + b"{}", "is no file of torch.save"),
    ],
)
def test_other_formats_are_told(tmp_path, content, message):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(WeightFileError, match=f"model.pt cannot be read: it {message}"):
        read_torch(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weight file at .*none.pt"):
        read_torch(tmp_path / "none.pt")


def test_files_cut_short_anywhere_are_told(tmp_path):
    content = (FILES / "training.pt").read_bytes()
    path = tmp_path / "cut.pt"
    for length in [*range(0, len(content), 13), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(WeightFileError, match="cut.pt cannot be read: it "):
            read_torch(path)


def test_no_changed_byte_does_harm(tmp_path):
    """Each byte in turn: an error of ours or a value, never another error or a crash."""
    content = bytearray((FILES / "layouts.pt").read_bytes())
    path, told = tmp_path / "changed.pt", 0
    for place in range(0, len(content), 11):
        changed = content.copy()
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        try:
            read_torch(path)
            require_checksums(path)
        except WeightFileError:
            told += 1
    # All but paddings, times and the like are covered by checksums.
    assert told > len(content) / 11 * 0.4


def test_a_changed_element_is_found_by_its_checksum(tmp_path):
    path = tmp_path / "model.pt"
    write_torch(path, {"a": BASE, "b": BASE + 1})
    content = path.read_bytes()
    place = content.index(BASE.tobytes())
    path.write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    read_torch(path)
    with pytest.raises(WeightFileError, match="model.pt is damaged in archive/data/0; fetch it"):
        require_checksums(path)


def test_what_is_written_reads_back(tmp_path):
    tree = {
        "model": read_torch(FILES / "layouts.pt"),
        "ema": {"transposed": BASE.reshape(4, 6).T.astype(ml_dtypes.bfloat16)},
        "dtypes": read_torch(FILES / "dtypes.pt"),
        "plain": [1, -(2**70), 2.5, True, None, "π", (3, [])],
        "empty": {},
    }
    path = tmp_path / "new" / "model.pt"
    write_torch(path, tree)
    read = read_torch(path)
    for part in ("model", "ema", "dtypes"):
        assert_same(read[part], tree[part])
    assert (read["plain"], read["empty"]) == (tree["plain"], {})
    require_checksums(path)
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def test_written_storages_are_aligned(tmp_path):
    path = tmp_path / "model.pt"
    write_torch(path, {f"entry.{index}": BASE[: index + 1] for index in range(9)})
    for array in read_torch(path).values():
        assert array.__array_interface__["data"][0] % 64 == 0


def test_what_torch_cannot_hold_is_told_and_leaves_no_file(tmp_path):
    for value, message in (
        (np.zeros(2, ">f4"), "no tensors of dtype >f4"),
        (np.zeros(2, "U3"), "no tensors of dtype <U3"),
        ({1, 2}, "hold no set, got"),
    ):
        with pytest.raises(TypeError, match=message):
            write_torch(tmp_path / "model.pt", {"a": value})
    assert not list(tmp_path.iterdir())


def rewritten(name, change, **options):
    """A file with the records of another, after `change` of their dictionary."""
    with zipfile.ZipFile(FILES / name) as archive:
        records = {entry: archive.read(entry) for entry in archive.namelist()}
    change(records)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", **options) as archive:
        for entry, content in records.items():
            archive.writestr(entry, content)
    return made.getvalue()


def root(records):
    return next(name for name in records if name.endswith("data.pkl")).removesuffix("data.pkl")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda r: None, {"compression": zipfile.ZIP_DEFLATED}, "data.pkl is compressed"),
        (lambda r: r.update({f"{root(r)}byteorder": b"big"}), {}, "byte order is b'big'"),
        (lambda r: r.pop(f"{root(r)}data/0"), {}, "lacks the record data/0 that its tensors"),
        (lambda r: r.update({f"{root(r)}data/0": bytes(95)}), {}, "must have 96 bytes, its .* 95"),
        (lambda r: r.update({f"{root(r)}data/0": bytes(97)}), {}, "must have 96 bytes, its .* 97"),
        (lambda r: r.pop(f"{root(r)}data.pkl"), {}, "with 0 records called FOLDER/data.pkl"),
        (lambda r: r.update({"x/data.pkl": b""}), {}, "with 2 records called FOLDER/data.pkl"),
        (lambda r: r.clear(), {}, "is no file of torch.save"),
    ],
)
def test_other_archives_are_refused(tmp_path, change, options, message):
    path = tmp_path / "model.pt"
    path.write_bytes(rewritten("layouts.pt", change, **options))
    with pytest.raises(WeightFileError, match=f"cannot be read: .*{message}"):
        read_torch(path)


def test_a_file_without_a_byte_order_is_little_endian(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(rewritten("layouts.pt", lambda r: r.pop(f"{root(r)}byteorder")))
    assert_same(read_torch(path), read_torch(FILES / "layouts.pt"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_records_of_one_name_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    shutil.copy(FILES / "layouts.pt", path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("layouts/data/0", bytes(96))
    with pytest.raises(WeightFileError, match="holds the record layouts/data/0 twice"):
        read_torch(path)


def long(value):
    """The instruction that makes a number."""
    content = pickle.encode_long(value)
    return b"\x8a" + bytes([len(content)]) + content


def with_view(path, *, offset=0, size=(24,), stride=(1,), count=24):
    """A file of one tensor, a view of a storage of 24 elements that may lie about itself."""

    def numbers(values):
        return b"(" + b"".join(map(long, values)) + b"t"

    write_torch(path, {"a": BASE})
    with zipfile.ZipFile(path) as archive:
        records = {entry: archive.read(entry) for entry in archive.namelist()}
    honest = long(24) + b"tQ" + long(0) + numbers([24]) + numbers([1])
    lie = long(count) + b"tQ" + long(offset) + numbers(size) + numbers(stride)
    assert honest in records["archive/data.pkl"]
    records["archive/data.pkl"] = records["archive/data.pkl"].replace(honest, lie)
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in records.items():
            archive.writestr(entry, content)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"size": (25,)}, "reaches beyond its storage of 24 elements"),
        ({"offset": 1}, "reaches beyond its storage of 24 elements"),
        ({"offset": 25, "size": (0,)}, "reaches beyond its storage of 24 elements"),
        ({"size": (2,), "stride": (24,)}, "reaches beyond its storage of 24 elements"),
        ({"size": (2, 13), "stride": (12, 1)}, "reaches beyond its storage of 24 elements"),
        ({"size": (2,), "stride": (2**62,)}, "reaches beyond its storage of 24 elements"),
        ({"size": (2**62, 2**62), "stride": (0, 0)}, "repeats 24 stored elements"),
        ({"size": (2**40,), "stride": (0,)}, "repeats 24 stored elements"),
        ({"size": (0, 2**62, 2**62), "stride": (1, 1, 1)}, "cannot be made: "),
        ({"offset": -1, "size": (1,)}, "offset of a tensor must be numbers from 0 on"),
        ({"size": (-1,)}, "size of a tensor must be numbers from 0 on"),
        ({"offset": 23, "size": (2,), "stride": (-1,)}, "stride of a tensor must be numbers from"),
        ({"size": (2**70,)}, "size of a tensor must be numbers from 0 on"),
        ({"size": (1,) * 40, "stride": (1,) * 40}, "size of a tensor must be at most 32 numbers"),
        ({"size": (4, 6)}, "has 2 sizes and 1 strides"),
        ({"count": 25}, "must have 100 bytes, its record has 96"),
        ({"count": 2**70}, "bytes, its record has 96"),
        ({"count": -24}, "must have -96 bytes, its record has 96"),
    ],
)
def test_no_tensor_reaches_beyond_its_storage(tmp_path, view, message):
    path = tmp_path / "model.pt"
    with_view(path, **view)
    with pytest.raises(WeightFileError, match=f"model.pt cannot be read: .*{message}"):
        read_torch(path)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ({"offset": 22, "size": (2,)}, BASE[22:]),
        ({"offset": 24, "size": (0, 5), "stride": (5, 1)}, np.zeros((0, 5), np.float32)),
        ({"size": (3, 3, 3), "stride": (2, 1, 0)}, BASE[[0, 1, 2, 2, 3, 4, 4, 5, 6]].repeat(3)),
    ],
)
def test_views_inside_their_storage_are_read(tmp_path, view, expected):
    with_view(tmp_path / "model.pt", **view)
    read = read_torch(tmp_path / "model.pt")["a"]
    assert read.shape == view["size"]
    np.testing.assert_array_equal(read.reshape(expected.shape), expected)


def with_directory(path, change):
    """Copies layouts.pt with the directory entry of its first storage changed."""
    content = bytearray((FILES / "layouts.pt").read_bytes())
    start = content.index(b"PK\x01\x02")
    while content[start + 46 : start + 60] != b"layouts/data/0":
        start = content.index(b"PK\x01\x02", start + 4)
    change(content, start)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("place", "code", "value"),
    [
        (24, "<I", 2**31),
        (20, "<I", 4000),
        (42, "<I", 5),
        (42, "<I", 0),
        (42, "<I", 2**31),
        (10, "<H", 8),
    ],
    ids=["size", "packed size", "inside a record", "another record", "beyond the end", "method"],
)
def test_records_that_lie_about_themselves_are_refused(tmp_path, place, code, value):
    path = tmp_path / "model.pt"
    with_directory(path, lambda c, start: struct.pack_into(code, c, start + place, value))
    with pytest.raises(WeightFileError, match="model.pt cannot be read: "):
        read_torch(path)


def legacy(tensors):
    """A file as PyTorch wrote them before 1.6: [(name, array, type of its storage)]."""

    def text(value):
        return b"U" + bytes([len(value)]) + value.encode()  # As Python 2 did.

    content, data = b"\x80\x02}(", b""
    for key, (name, array, storage) in enumerate(tensors):
        content += text(name) + b"ctorch._utils\n_rebuild_tensor\n("
        content += b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(str(key))
        content += text("cuda:0") + pickle.dumps(array.size, 2)[2:-1] + b"NtQ"
        for numbers in (0, array.shape, tuple(step // array.itemsize for step in array.strides)):
            content += pickle.dumps(numbers, 2)[2:-1]
        content += b"tR"
        data += struct.pack("<q", array.size) + array.tobytes()
    facts = {"protocol_version": 1001, "little_endian": True}
    start = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, facts))
    keys = pickle.dumps([str(key) for key in range(len(tensors))], 2)
    return start + content + b"u." + keys + data


OLD = [
    ("weight", np.arange(6, dtype=np.float32).reshape(2, 3), "FloatStorage"),
    ("steps", np.array(7), "LongStorage"),
    ("none", np.zeros((0, 2), np.float16), "HalfStorage"),
]


def test_files_from_before_1_6(tmp_path):
    np.testing.assert_array_equal(read_torch(FILES / "legacy.pt")["a"], np.arange(2.0))
    path = tmp_path / "old.pth"
    path.write_bytes(legacy(OLD))
    read = read_torch(path)
    require_checksums(path)
    assert list(read) == ["weight", "steps", "none"]
    for name, array, _ in OLD:
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype and read[name].shape == array.shape
    assert not read["weight"].flags.writeable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "is cut short; fetch it again"),
        (lambda data: data[:60], "pickle is damaged .*; fetch it again"),
        (lambda data: data + b"x", "has 1 bytes too many"),
        (lambda data: data.replace(b"\xe9\x03", b"\xea\x03", 1), "version is 1002, not 1001"),
        (lambda data: data.replace(b"endianq\x02\x88", b"endianq\x02\x89"), "byte order is not"),
        (lambda data: data.replace(struct.pack("<q", 6), struct.pack("<q", 5)), "of 6 elements"),
        (lambda data: data.replace(b"FloatStorage", b"CharStorages"), "asks for 'torch.CharStor"),
        (lambda data: data.replace(b"U\x011", b"U\x010", 1), "storage 0 is not of one known"),
        (lambda data: data.replace(b"U\x011", b"U\x018", 1), "are not those that its content"),
        (lambda data: data.replace(b"_utils\n_rebuild_tensor", b"_utils\n_rebuild_device"), "asks"),
    ],
)
def test_damaged_files_from_before_1_6(tmp_path, change, message):
    path, whole = tmp_path / "old.pth", legacy(OLD)
    path.write_bytes(change(whole))
    assert change(whole) != whole
    for use in (read_torch, require_checksums):
        with pytest.raises(WeightFileError, match=f"old.pth cannot be read: .*{message}"):
            use(path)
