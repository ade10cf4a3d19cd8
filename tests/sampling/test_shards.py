import resource
import signal
import tracemalloc

import numpy as np
import pytest

from rae_jax.sampling import shards
from rae_jax.sampling.save import open_images, save_npz
from rae_jax.sampling.shards import Shard, find_shards, missing, read_blocks, write_shard

SHAPE = (4, 4, 3)


def images(start, stop):
    """Images that know their number."""
    return np.broadcast_to(
        np.arange(start, stop, dtype=np.uint8)[:, None, None, None], (stop - start, *SHAPE)
    ).copy()


@pytest.fixture
def folder(tmp_path):
    for start, stop in ((9, 12), (0, 4), (4, 6)):
        write_shard(tmp_path, start, images(start, stop))
    return tmp_path


def spans(found):
    return [(shard.start, shard.stop) for shard in found]


def test_what_is_there_and_what_is_missing(folder):
    found = find_shards(folder, SHAPE)
    assert spans(found) == [(0, 4), (4, 6), (9, 12)]
    assert missing(found, 14).tolist() == [6, 7, 8, 12, 13]
    assert missing([], 3).dtype == np.int32
    (folder / "00000006-00000009.npy.partial").write_bytes(b"half of it")
    (folder / "other.npy").write_bytes(b"another's")
    assert spans(find_shards(folder, SHAPE)) == spans(found)
    assert find_shards(folder / "absent", SHAPE) == []


def test_blocks_and_single_images_come_in_order(folder, monkeypatch):
    write_shard(folder, 6, images(6, 9))
    found = find_shards(folder, SHAPE)
    for size in (1, 100, 2**23):
        monkeypatch.setattr(shards, "_BLOCK_BYTES", size)
        blocks = list(read_blocks(found))
        assert max(map(len, blocks)) == {1: 1, 100: 2, 2**23: 4}[size]
        np.testing.assert_array_equal(np.concatenate(blocks), images(0, 12))
    index = np.array([11, 0, 5, 6])
    picked = shards.read_images(found, index)
    np.testing.assert_array_equal(picked[:, 0, 0, 0], index)


def test_damaged_shards_are_made_again(folder, caplog):
    whole = (folder / "00000004-00000006.npy").read_bytes()
    for content in (b"", b"no array", whole[:-1], whole + b"x"):
        (folder / "00000004-00000006.npy").write_bytes(content)
        assert spans(find_shards(folder, SHAPE)) == [(0, 4), (9, 12)]
    assert "00000004-00000006.npy is damaged; its images are made again" in caplog.text
    # Of another size than the images, or than the name says.
    assert find_shards(folder, (8, 8, 3)) == []
    np.save(folder / "00000004-00000006.npy", images(4, 6).astype(np.int8))
    assert spans(find_shards(folder, SHAPE)) == [(0, 4), (9, 12)]


def test_an_image_counts_once(folder):
    write_shard(folder, 2, images(2, 9))
    found = find_shards(folder, SHAPE)
    assert spans(found) == [(0, 4), (4, 6), (9, 12)]
    assert missing(found, 12).tolist() == [6, 7, 8]


def joined(folder, num_shards, per_shard, size):
    """Peak memory in bytes, as allocated by Python and NumPy, of joining that many shards."""
    part = np.zeros((per_shard, size, size, 3), np.uint8)
    for start in range(0, num_shards * per_shard, per_shard):
        part[:] = start % 251
        write_shard(folder / "shards", start, part)
    del part
    found = find_shards(folder / "shards", (size, size, 3))
    labels = np.arange(num_shards * per_shard) % 7
    tracemalloc.start()
    try:
        save_npz(folder / "samples.npz", read_blocks(found), labels)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    stored = open_images(folder / "samples.npz")
    assert stored.shape == (num_shards * per_shard, size, size, 3)
    for start in range(0, len(stored), per_shard):
        assert np.all(stored[start + per_shard - 1] == start % 251)
    return peak


def test_joining_takes_the_memory_of_a_block(tmp_path):
    # 60 MB of images in blocks of 6 MB, of which the reader and the writer hold one each.
    assert joined(tmp_path, num_shards=10, per_shard=32, size=250) < 15e6


@pytest.mark.slow
def test_joining_gigabytes_takes_the_memory_of_a_block(tmp_path):
    # 4.8 GB: sizes of 4 GiB and above are written in another way.
    assert joined(tmp_path, num_shards=96, per_shard=256, size=256) < 20e6
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["arr_1"].shape == (96 * 256,)


def test_a_full_disk_leaves_the_shards_and_nothing_half_done(folder):
    write_shard(folder, 6, images(6, 9))
    labels = np.zeros(12, np.int64)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # No file may become larger than this: the system refuses to write on, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_npz(folder / "samples.npz", read_blocks(find_shards(folder, SHAPE)), labels)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(path.suffix for path in folder.iterdir()) == 4 * [".npy"]
    assert spans(find_shards(folder, SHAPE)) == [(0, 4), (4, 6), (6, 9), (9, 12)]


def test_a_shard_is_called_by_the_images_in_it(tmp_path):
    shard = write_shard(tmp_path / "new", 7, images(7, 9))
    assert shard == Shard(tmp_path / "new" / "00000007-00000009.npy", 7, 9)
