"""The benchmark of the input pipeline measures every way, a peer's among them."""

import numpy as np
import pytest
from PIL import Image

from rae_jax.benchmarking import data
from rae_jax.data.sources.image_folder import ImageFolder
from rae_jax.data.transforms import center_crop
from tests.data import photos

PEER = """
import time
VERSION = "sleeper 1"
def batches(folder, *, image_size, batch_size, workers):
    assert image_size == 16
    while True:
        time.sleep(0.01 * batch_size)
        yield None
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    photos.folder(folder / "images")
    (folder / "peer.py").write_text(PEER)
    settings = data.Settings(
        folder=str(folder / "images"),
        peers=(str(folder / "peer.py"),),
        images=8,
        rounds=1,
        threads=1,
        image_size=16,
        batch_size=4,
    )
    return data.measure(settings)


def test_every_way_is_measured(rows):
    names = [row["way"] for row in rows]
    assert names[: len(names) // 2] == [
        "peer (sleeper 1): image folder",
        "image folder, PIL alone",
        "image folder",
        "ArrayRecord of files",
        "ArrayRecord of cropped pixels",
        "cached latents 16x16x768, bfloat16",
    ]
    assert [row["threads"] for row in rows] == [0] * 6 + [1] * 6
    assert all(row["images/s"] > 0 for row in rows)


def test_waiting_takes_time_but_no_core(rows):
    peer, with_workers = rows[0], rows[6]
    assert peer["images/s"] < 101
    assert peer["images/s per core"] > 2 * peer["images/s"]
    assert with_workers["images/s per core"] is None


def test_made_up_photographs_are_like_real_ones_in_size(tmp_path):
    folder = data._photographs(tmp_path / "images", 4)
    files = sorted(folder.rglob("*.jpg"))
    assert len(files) == 4
    assert np.mean([file.stat().st_size for file in files]) == pytest.approx(110_000, rel=0.1)
    with Image.open(files[0]) as image:
        assert image.size == (500, 375)


def test_a_peer_that_cannot_be_loaded_is_told(tmp_path):
    path = tmp_path / "peer.py"
    path.write_text("import a_library_that_is_not_there")
    with pytest.raises(ValueError, match=r"peer\.py cannot be loaded: No module named 'a_libr"):
        data.measure(data.Settings(peers=(str(path),)))


@pytest.mark.torch
def test_the_loader_of_torch_gives_the_same_crops(tmp_path):
    from tests.benchmarking.peers import pytorch

    photos.folder(tmp_path / "images", classes=1)
    stream = pytorch.batches(str(tmp_path / "images"), image_size=16, batch_size=5, workers=0)
    images, _ = next(stream)
    source = ImageFolder(tmp_path / "images")
    crops = {center_crop(source[index]["image"], 16).tobytes() for index in range(5)}
    both = crops | {
        np.ascontiguousarray(center_crop(source[index]["image"], 16)[:, ::-1]).tobytes()
        for index in range(5)
    }
    pixels = np.rint(images.numpy() * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    assert all(np.ascontiguousarray(image).tobytes() in both for image in pixels)
