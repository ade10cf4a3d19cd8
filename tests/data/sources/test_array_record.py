"""ArrayRecord shards as a source."""

import json
import pickle

import msgpack
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from rae_jax.data import packing, pipeline
from rae_jax.data.decoding import UnreadableImageError
from rae_jax.data.records import pack_file, pack_pixels, unpack
from rae_jax.data.sources.array_record import ArrayRecords
from rae_jax.data.sources.image_folder import ImageFolder
from tests.data import photos

FILES = packing.Preparation()


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A folder of images beside the shards they were packed into."""
    folder = tmp_path_factory.mktemp("packed")
    photos.folder(folder / "images" / "train")
    packing.pack(
        folder / "images" / "train",
        folder / "records" / "train",
        preparation=FILES,
        images_per_shard=4,
        num_workers=0,
    )
    return folder


def assert_same_record(record, other):
    assert record.keys() == other.keys()
    for name in record:
        np.testing.assert_array_equal(record[name], other[name])
        assert record[name].dtype == other[name].dtype


def test_records_are_those_of_the_folder(packed):
    folder = ImageFolder(packed / "images", "train")
    records = ArrayRecords(packed / "records", "train")
    assert len(records) == len(folder) == 10
    assert records.classes == folder.classes == ("class0", "class1")
    for index in np.random.default_rng(0).permutation(10):
        assert_same_record(records[index], folder[index])
    assert repr(records) == f"ArrayRecords('{packed / 'records/train'}', 10 images)"
    assert records.path(5) == (
        f"record 1 of {packed / 'records/train/images-00001-of-00003.array_record'}"
    )


def test_the_stream_is_that_of_the_folder(packed):
    kinds = ImageFolder(packed / "images/train"), ArrayRecords(packed / "records/train")
    streams = [pipeline.batches(source, seed=3, global_batch_size=1) for source in kinds]
    for _ in range(12):
        ours, theirs = next(streams[1]), next(streams[0])
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_source_goes_to_other_processes(packed):
    records = ArrayRecords(packed / "records/train")
    records[0]
    assert_same_record(pickle.loads(pickle.dumps(records))[7], records[7])


def test_pixels_come_back(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    found, label = unpack(pack_pixels(pixels, 8, "a.png"), "record 0")
    np.testing.assert_array_equal(found, pixels)
    assert label == 8


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "cannot read here: "),
        (b"\xc1", "cannot read here: "),
        (msgpack.packb([1, 2]), "cannot read here: "),
        (msgpack.packb({"name": "a", "image": b""}), "cannot read here: 'label'"),
        (
            msgpack.packb({"name": "a", "label": 0, "pixels": b"12345", "size": [1, 2]}),
            "cannot read here: cannot reshape",
        ),
        (pack_file(b"no picture", 0, "b/a.png"), "cannot read image b/a.png in here: no format"),
    ],
)
def test_damaged_records_are_unreadable_images(record, message):
    with pytest.raises(UnreadableImageError, match=message):
        unpack(record, "here")


def test_a_damaged_shard_is_named(packed, tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    # Large enough that records lie in several blocks of the file.
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    name = "images.array_record"
    writer = ArrayRecordWriter(str(folder / name), "group_size:1,uncompressed")
    for _ in range(4):
        writer.write(pack_pixels(pixels, 0, "a.png"))
    writer.close()
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    shard = {"name": name, "records": 4, "size": len(data), "sha256": ""}
    manifest = json.loads((packed / "records/train/manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "shards": [shard]}))
    records = ArrayRecords(folder)
    readable = []
    for index in range(4):
        try:
            readable.append((records[index]["image"] == pixels).all())
        except UnreadableImageError as error:
            assert f"cannot read record {index} of {folder / name}: " in str(error)
    # The file checks its own blocks: what it does not refuse is as it was.
    assert 0 < len(readable) < 4
    assert all(readable)


def test_what_is_no_packed_folder(packed, tmp_path):
    with pytest.raises(ValueError, match=r"ArrayRecord shards is not set; set data\.path"):
        ArrayRecords("")
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json in .*; pack images with"):
        ArrayRecords(packed / "records")
    path = tmp_path / "manifest.json"
    for text in ("{", "[]", '{"format": "another", "shards": []}', '{"shards": []}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"manifest\.json cannot be used \("):
            ArrayRecords(tmp_path)
    content = json.loads((packed / "records/train/manifest.json").read_text())
    path.write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match=r"no shard .*images-00000-of-00003\.array_record"):
        ArrayRecords(tmp_path)
    (tmp_path / content["shards"][0]["name"]).write_bytes(b"short")
    with pytest.raises(ValueError, match=r"shard .* must have \d+ bytes, it has 5; fetch it again"):
        ArrayRecords(tmp_path)
    path.write_text(json.dumps({**content, "shards": []}))
    with pytest.raises(ValueError, match="holds no records"):
        ArrayRecords(tmp_path)
