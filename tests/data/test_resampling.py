"""Parts of resized images against PIL itself, by PIL's passes and by compiled loops."""

import numpy as np
import pytest
from PIL import Image

from rae_jax.data import extras, resampling, transforms
from rae_jax.data.resampling import Window, resized_part
from rae_jax.data.sources.base import record
from tests.data import photos


@pytest.fixture(params=["loops", "pil"])
def way(request):
    """With and without what the extra `fast` installs."""
    if request.param == "loops":
        assert resampling.compiled() is not None
        yield request.param
        return
    with extras.left_out():
        yield request.param


def by_pil(image: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    box = (window.left, window.top, window.left + window.width, window.top + window.height)
    return np.asarray(resized.crop(box))


def random_window(rng: np.random.Generator, size: tuple[int, int]) -> Window:
    left, top = (int(rng.integers(side)) for side in size)
    return Window(
        left, top, int(rng.integers(size[0] - left)) + 1, int(rng.integers(size[1] - top)) + 1
    )


@pytest.mark.parametrize("seed", range(60))
def test_any_part_of_any_size_is_bit_equal(way, seed):
    rng = np.random.default_rng(seed)
    height, width, *size = (int(side) for side in rng.integers(1, 130, 4))
    # Noise of extreme values overshoots, which must be clipped as PIL does.
    image = rng.choice(np.array([0, 1, 127, 254, 255], np.uint8), (height, width, 3))
    window = random_window(rng, (size[0], size[1]))
    part = resized_part(image, (size[0], size[1]), window)
    assert (part.dtype, part.flags.c_contiguous or way == "pil") == (np.uint8, True)
    np.testing.assert_array_equal(part, by_pil(image, (size[0], size[1]), window))


SIZES = (
    (500, 375),
    (375, 500),
    (333, 500),
    (500, 332),
    (640, 427),
    (213, 320),
    (256, 256),
    (300, 700),
)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_crops_of_photographs_are_bit_equal(way, width, height):
    image = np.asarray(photos.photo(width, width, height))
    side = 256
    scale = side / min(width, height)
    size = round(width * scale), round(height * scale)
    middle = Window((size[0] - side) // 2, (size[1] - side) // 2, side, side)
    np.testing.assert_array_equal(transforms.center_crop(image, side), by_pil(image, size, middle))
    resized = transforms.resize_shorter_side(image, 384)
    whole = Window(0, 0, resized.shape[1], resized.shape[0])
    np.testing.assert_array_equal(resized, by_pil(image, whole[2:], whole))
    crop = transforms.RandomCrop(side, 384).random_map(
        record(image, 0, 0), np.random.default_rng(width)
    )["image"]
    draws = np.random.default_rng(width)
    top = int(draws.integers(resized.shape[0] - side + 1))
    left = int(draws.integers(resized.shape[1] - side + 1))
    np.testing.assert_array_equal(crop, resized[top : top + side, left : left + side])


def test_large_images_are_halved_first(way):
    image = np.asarray(photos.photo(0, 1100, 803))
    picture = Image.fromarray(image)
    for _ in range(2):
        size = (picture.width // 2, picture.height // 2)
        picture = picture.resize(size, Image.Resampling.BOX)
    assert picture.size == (275, 200)
    picture = picture.resize((176, 128), Image.Resampling.BICUBIC)
    expected = np.asarray(picture)[:, 24:152]
    np.testing.assert_array_equal(transforms.center_crop(image, 128), expected)


def test_pixels_of_four_bytes_are_taken_as_they_lie():
    rng = np.random.default_rng(0)
    four = rng.integers(0, 256, (61, 47, 4), np.uint8)
    size, window = (31, 40), Window(3, 5, 20, 30)
    expected = by_pil(np.ascontiguousarray(four[..., :3]), size, window)
    # The view is the case meant; the others only look like it.
    for image in (four[..., :3], four[..., 1:], four[:, ::-1, :3], four[:, :40, :3]):
        alike = by_pil(np.ascontiguousarray(image), size, window)
        np.testing.assert_array_equal(resized_part(image, size, window), alike)
    np.testing.assert_array_equal(resized_part(four[..., :3], size, window), expected)


def test_what_one_call_returns_survives_the_next():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(3)]
    window = Window(0, 0, 20, 16)
    parts = [resized_part(image, (20, 16), window) for image in images]
    for image, part in zip(images, parts, strict=True):
        np.testing.assert_array_equal(part, by_pil(image, (20, 16), window))
