"""Folders of image files."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from rae_jax.data import pipeline
from rae_jax.data.sources.image_folder import ImageFolder, read_image


def write(path: pathlib.Path, value: int = 0, mode: str = "RGB", size=(6, 4)) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    fill = value if len(mode) == 1 else (value,) * len(mode)
    Image.new(mode, size, fill).save(path)
    return path


def summary(source: ImageFolder) -> list[tuple[int, int, int]]:
    records = [source[i] for i in range(len(source))]
    return [(int(r["image"][0, 0, 0]), int(r["label"]), int(r["index"])) for r in records]


def test_classes_are_sub_folders_in_sorted_order(tmp_path):
    write(tmp_path / "b" / "2.png", 20)
    write(tmp_path / "b" / "1.PNG", 10)
    write(tmp_path / "a" / "deep" / "3.png", 30)
    write(tmp_path / ".hidden" / "4.png", 40)
    write(tmp_path / "a" / ".5.png", 50)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    source = ImageFolder(tmp_path)
    assert source.classes == ("a", "b")
    assert summary(source) == [(30, 0, 0), (10, 1, 1), (20, 1, 2)]
    assert source.path(1) == str(tmp_path / "b" / "1.PNG")
    assert repr(source) == f"ImageFolder('{tmp_path}', 3 images)"
    record = source[0]
    assert record["image"].shape == (4, 6, 3)
    assert (record["image"].dtype, record["label"].dtype) == (np.uint8, np.int32)
    assert record["index"].dtype == np.int64


def test_flat_folder_has_label_zero(tmp_path):
    write(tmp_path / "b.jpg", 20)
    write(tmp_path / "a.webp", 10)
    (tmp_path / "empty").mkdir()
    source = ImageFolder(str(tmp_path))
    assert source.classes == ()
    assert [record[1:] for record in summary(source)] == [(0, 0), (0, 1)]
    assert source.path(0).endswith("a.webp")


def test_split_is_a_sub_folder(tmp_path):
    write(tmp_path / "train" / "a" / "1.png")
    assert ImageFolder(tmp_path, "train").classes == ("a",)
    with pytest.raises(FileNotFoundError, match=r"no folder 'val' in .*; set data\.split to"):
        ImageFolder(tmp_path, "val")


@pytest.mark.parametrize(
    ("mode", "expected"), [("L", 7), ("P", 7), ("RGBA", 7), ("LA", 7), ("1", 255)]
)
def test_other_modes_become_rgb(tmp_path, mode, expected):
    path = tmp_path / "a.png"
    image = Image.new("RGB", (3, 2), (expected,) * 3)
    if mode == "P":
        image = image.quantize(4)
        image.save(path, transparency=b"\x00\x80")
    else:
        image.convert(mode).save(path)
    np.testing.assert_array_equal(read_image(path), np.full((2, 3, 3), expected, np.uint8))


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image folder .*nowhere"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"set data\.path"):
        ImageFolder("")
    with pytest.raises(ValueError, match=r"no images in .*accepted are \.bmp, \.jpeg"):
        ImageFolder(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="no images in"):
        ImageFolder(tmp_path)


def test_a_class_without_images_is_named(tmp_path):
    write(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="no images in class folders b of"):
        ImageFolder(tmp_path)


def test_images_beside_classes_are_named(tmp_path):
    write(tmp_path / "a" / "1.png")
    write(tmp_path / "2.png")
    with pytest.raises(ValueError, match=r"2\.png lies beside class folders such as a"):
        ImageFolder(tmp_path)


def damaged(path: pathlib.Path, kind: str) -> None:
    if kind == "text":
        path.write_text("no image")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-2000])
    elif kind == "16 bit":
        Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(path)


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "16 bit"])
def test_unreadable_image_is_named_also_out_of_the_pipeline(tmp_path, kind):
    damaged(tmp_path / "bad.png", kind)
    with pytest.raises(ValueError, match=r"cannot read image .*bad\.png: "):
        read_image(tmp_path / "bad.png")
    source = ImageFolder(tmp_path)
    stream = pipeline.batches(source, seed=0, global_batch_size=1)
    with pytest.raises(ValueError, match=r"cannot read image .*bad\.png: "):
        next(stream)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image file .*gone\.png"):
        read_image(tmp_path / "gone.png")
