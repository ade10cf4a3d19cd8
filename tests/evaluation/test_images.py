import json
import pathlib
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from rae_jax.configuration.schema import ConfigError, DataConfig, ImagesConfig
from rae_jax.evaluation.images import from_folder, from_npz, open_path, open_set
from rae_jax.sampling.save import save_npz
from tests.evaluation.extractors import digits

HEIGHT, WIDTH = 12, 16
EVERY = np.arange(5)


@pytest.fixture(scope="module")
def pixels():
    noise = np.random.default_rng(0)
    return noise.integers(0, 256, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)


def write(folder, pictures, suffix=".png"):
    for number, picture in enumerate(pictures):
        path = pathlib.Path(folder) / f"{number // 2}" / f"{number:03d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        image.save(path)
    return folder


@pytest.fixture
def npz(tmp_path):
    def save(save=np.savez, **arrays):
        save(tmp_path / "images.npz", **arrays)
        return tmp_path / "images.npz"

    return save


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz(npz, pixels, save):
    images = open_path(npz(save, arr_0=pixels, arr_1=np.zeros(5)))
    assert (images.count, images.image_size, images.names) == (5, (HEIGHT, WIDTH), ())
    np.testing.assert_array_equal(images.read(EVERY), pixels)
    np.testing.assert_array_equal(images.read(np.array([3, 1])), pixels[[3, 1]])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_never_in_memory(npz, save):
    path = npz(save, arr_0=np.zeros((1000, 64, 64, 3), np.uint8))
    tracemalloc.start()
    images = open_path(path)
    for _, part in images.parts(50):
        assert part.shape == (50, 64, 64, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6  # of 12e6


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path, pixels):
    images = open_path(write(tmp_path, pixels))
    assert images.names == ["0/000", "0/001", "1/002", "1/003", "2/004"]
    assert (images.count, images.image_size, images.notes) == (5, (HEIGHT, WIDTH), ())
    np.testing.assert_array_equal(images.read(np.array([4, 0])), pixels[[4, 0]])


def test_a_work_folder_of_samples(tmp_path, pixels):
    (tmp_path / "config.json").write_text(json.dumps({"kind": "samples", "config": {}}))
    write(tmp_path / "png", pixels[:1])
    with pytest.raises(ValueError, match="the samples in .* are not finished; start tools/sample"):
        open_path(tmp_path)
    save_npz(tmp_path / "samples.npz", [pixels], np.arange(5))
    np.testing.assert_array_equal(open_path(tmp_path).read(EVERY), pixels)


def test_a_work_folder_of_packed_images(tmp_path, pixels):
    (tmp_path / "config.json").write_text(json.dumps({"kind": "images", "config": {}}))
    with pytest.raises(ValueError, match="the images in .* are not finished; start tools/pack_im"):
        open_path(tmp_path)
    save_npz(tmp_path / "images.npz", [pixels], None, num_images=len(pixels))
    np.testing.assert_array_equal(open_path(tmp_path).read(EVERY), pixels)


def test_pictures_of_a_run_are_no_set(tmp_path, pixels):
    (tmp_path / "config.json").write_text(json.dumps({"kind": "stage1", "config": {}}))
    write(tmp_path / "images", pixels)
    with pytest.raises(ValueError, match="is a work folder of another kind, 'stage1', whose"):
        open_path(tmp_path)
    np.testing.assert_array_equal(open_path(tmp_path / "images").read(EVERY), pixels)


def test_a_work_folder_of_reconstructions_without_its_overview(tmp_path, pixels):
    note = {"kind": "reconstructions", "config": {}}
    (tmp_path / "config.json").write_text(json.dumps(note))
    write(tmp_path, pixels)
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(tmp_path / "side_by_side.png")
    assert open_path(tmp_path).count == 5


def test_a_data_set_is_cropped(tmp_path, pixels):
    write(tmp_path, [*pixels, np.zeros((40, 20, 3), np.uint8)])
    data = DataConfig(path=str(tmp_path), split="", image_size=8, crop="center")
    images = open_set(ImagesConfig(data=data))
    assert (images.count, images.image_size) == (6, (8, 8))
    assert images.read(np.arange(6)).shape == (6, 8, 8, 3)
    digit = open_set(
        ImagesConfig(data=DataConfig(source="digits", split="test", image_size=48, crop="none"))
    )
    np.testing.assert_array_equal(digit.read(np.arange(20)), digits("test", 20))
    with pytest.raises(ConfigError, match="data.crop must be 'center' or 'none'"):
        ImagesConfig(data=DataConfig(crop="random"))


@pytest.mark.parametrize("size", [2, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_of_all_processes_are_all_images_once(npz, pixels, count, size):
    images = from_npz(npz(arr_0=pixels))
    seen = {}
    for process in range(count):
        parts = list(images.parts(size, process_index=process, process_count=count))
        assert parts
        for index, part in parts:
            seen |= dict(zip(index.tolist(), part, strict=True))
    assert sorted(seen) == list(range(5))
    np.testing.assert_array_equal(np.stack([seen[number] for number in range(5)]), pixels)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": (5, 4, 4, 3)}, "must hold images as arr_0, it holds images"),
        ({}, "must hold images as arr_0, it holds nothing"),
        ({"arr_0": (5, 3, 4, 4)}, r"got \(5, 3, 4, 4\); move the channels to the last axis"),
        ({"arr_0": (5, 4, 4)}, r"got \(5, 4, 4\); convert the images to RGB"),
        ({"arr_0": (5, 4, 4, 4)}, r"got \(5, 4, 4, 4\); convert the images to RGB"),
        ({"arr_0": (0, 4, 4, 3)}, "with at least one image"),
    ],
)
def test_an_npz_of_something_else(npz, arrays, message):
    made = {name: np.zeros(shape, np.uint8) for name, shape in arrays.items()}
    with pytest.raises(ValueError, match=message):
        open_path(npz(**made))


def test_an_npz_of_floats_tells_their_range(npz, pixels):
    with pytest.raises(ValueError, match="got float32 from .* to 1 in its first images; scale"):
        open_path(npz(arr_0=pixels.astype(np.float32) / pixels.max()))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_of_objects_is_not_followed_into_memory(npz, save):
    path = npz(save, arr_0=np.array([1, "two", None], object))
    with pytest.raises(ValueError, match=f"cannot read arr_0 of {path}: .* numbers, not objects"):
        open_path(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_in_the_order_of_fortran(npz, pixels, save):
    path = npz(save, arr_0=np.asfortranarray(pixels))
    with pytest.raises(ValueError, match=f"cannot read arr_0 of {path}: .* order of C"):
        open_path(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_truncated_npz(npz, pixels, save):
    path = npz(save, arr_0=pixels)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{path} is not a complete npz .*; write or fetch it"):
        open_path(path)


def test_a_damaged_compressed_npz(npz, pixels):
    path = npz(np.savez_compressed, arr_0=pixels)
    data = bytearray(path.read_bytes())
    data[200:300] = bytes(100)
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=f"cannot read arr_0 of {path}: the file is damaged"):
        open_path(path)


def test_nothing_there_and_nothing_in_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no images at .*absent"):
        open_path(tmp_path / "absent")
    with pytest.raises(ValueError, match="no images in .*; accepted are .bmp, .jpeg"):
        open_path(tmp_path)
    (tmp_path / "images.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="images.npy must be an npz with arr_0, or a folder"):
        open_path(tmp_path / "images.npy")


def test_several_sizes_are_told_with_what_to_do(tmp_path, pixels):
    write(tmp_path, [*pixels, np.zeros((HEIGHT, HEIGHT, 3), np.uint8)])
    with pytest.raises(ValueError) as caught:
        from_folder(tmp_path)
    told = str(caught.value)
    assert "0/000.png has 16 x 12" in told and "2/005.png has 12 x 12" in told
    assert "data.crop='center'" in told


def test_a_truncated_image_is_named(tmp_path, pixels):
    write(tmp_path, pixels)
    path = tmp_path / "1/003.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"cannot read image {path}"):
        open_path(tmp_path).read(EVERY)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"cannot read image {path}"):
        open_path(tmp_path)


def test_sixteen_bits_are_refused(tmp_path):
    write(tmp_path, [np.zeros((4, 4), np.uint16)])
    with pytest.raises(ValueError, match="mode I;16 has more than 8 bits; convert it first"):
        open_path(tmp_path)


@pytest.mark.parametrize(
    ("mode", "suffix", "note"),
    [
        ("L", ".png", "grey became RGB in 2 images"),
        ("LA", ".png", "grey became RGB and its transparency was dropped in 2 images"),
        ("P", ".png", "palettes became RGB in 2 images"),
        ("RGBA", ".png", "transparency was dropped in 2 images"),
        ("CMYK", ".tif", "CMYK became RGB without colour management in 2 images"),
    ],
)
def test_what_is_not_rgb_is_converted_and_told(tmp_path, pixels, mode, suffix, note):
    changed = [Image.fromarray(picture).convert(mode) for picture in pixels[:2]]
    images = open_path(write(tmp_path, changed, suffix))
    assert [text.removeprefix(f"{tmp_path}: ") for text in images.notes] == [note]
    expected = np.stack([np.asarray(picture.convert("RGB")) for picture in changed])
    np.testing.assert_array_equal(images.read(np.arange(2)), expected)


def test_jpeg_files_are_noticed(tmp_path, pixels):
    write(tmp_path, pixels[:2], ".jpg")
    (note,) = open_path(tmp_path).notes
    assert note.endswith("2 of 2 images are JPEG files, whose losses are scored")
    data = DataConfig(path=str(tmp_path), split="", image_size=8, crop="center")
    (note,) = open_set(ImagesConfig(data=data)).notes
    assert note.endswith("2 of 2 images are JPEG files")
