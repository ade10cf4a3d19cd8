"""Preparation of images against what PIL and torchvision gave upstream."""

import numpy as np
import pytest

from rae_jax.data import transforms
from rae_jax.data.sources.base import record
from tests.comparison import load_case

CASE = load_case("bicubic_resize")


def picture(name: str) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(CASE.input(f"picture_{name}"), 0, -1))


def outputs(prefix: str) -> list[tuple[str, str, int]]:
    names = [name for name in CASE.statement["outputs"] if name.startswith(prefix)]
    return [(name, name.split("_")[-3], int(name.split("_")[-1])) for name in names]


@pytest.mark.parametrize(("name", "size", "target"), outputs("center_crop"))
def test_center_crop_is_bit_equal(name, size, target):
    crop = transforms.center_crop(picture(size), target)
    assert crop.shape == (target, target, 3)
    # The largest case is stored at every fourth pixel.
    crop = crop[::4, ::4] if target == 256 else crop
    np.testing.assert_array_equal(crop, CASE.output(name))


@pytest.mark.parametrize(("name", "size", "target"), outputs("resize"))
def test_resize_shorter_side_is_bit_equal(name, size, target):
    resized = transforms.resize_shorter_side(picture(size), target)
    assert min(resized.shape[:2]) == target
    resized = resized[::8, ::8] if target == 384 else resized
    np.testing.assert_array_equal(resized, CASE.output(name))


SIZES = CASE.config["resize_384_output_sizes_width_height"]


@pytest.mark.parametrize("size", SIZES)
def test_resize_shorter_side_gives_the_sizes_of_torchvision(size):
    width, height = map(int, size.split("x"))
    resized = transforms.resize_shorter_side(np.zeros((height, width, 3), np.uint8), 384)
    assert [resized.shape[1], resized.shape[0]] == SIZES[size]


def test_golden_cases_are_all_used():
    assert len(outputs("center_crop")) == 12
    assert len(outputs("resize")) == 7
    assert len(SIZES) == 7


def coordinates(height: int, width: int) -> np.ndarray:
    rows, columns = np.indices((height, width)).astype(np.uint8)
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1)


def test_random_crop_takes_every_window_alike():
    transform = transforms.RandomCrop(image_size=2, resize_size=4)
    generator = np.random.default_rng(0)
    seen = []
    for _ in range(1200):
        out = transform.random_map(record(coordinates(4, 5), 7, 3), generator)
        top, left = out["image"][0, 0, :2]
        np.testing.assert_array_equal(
            out["image"][..., :2], coordinates(2, 2)[..., :2] + [top, left]
        )
        assert (out["label"], out["index"]) == (7, 3)
        seen.append((int(top), int(left)))
    windows, counts = np.unique(seen, axis=0, return_counts=True)
    assert len(windows) == 3 * 4
    # 100 expected each; five standard deviations are 48.
    assert counts.min() > 52
    assert counts.max() < 148


def test_random_crop_resizes_first():
    transform = transforms.RandomCrop(image_size=48, resize_size=48)
    out = transform.random_map(record(picture("64x64"), 0, 0), np.random.default_rng(0))
    np.testing.assert_array_equal(out["image"], CASE.output("resize_64x64_shorter_48"))


def test_random_crop_must_fit():
    with pytest.raises(ValueError, match="resize_size 31 must be at least image_size 32"):
        transforms.RandomCrop(image_size=32, resize_size=31)


def test_random_flip_mirrors_half_of_the_images():
    image = coordinates(2, 3)
    generator = np.random.default_rng(0)
    flips = 0
    for _ in range(1000):
        out = transforms.RandomFlip().random_map(record(image, 1, 2), generator)["image"]
        flipped = out[0, 0, 1] == 2
        np.testing.assert_array_equal(out, image[:, ::-1] if flipped else image)
        flips += int(flipped)
    # 500 expected; five standard deviations are 79.
    assert abs(flips - 500) < 79


def test_center_crop_transform_keeps_the_rest_of_the_record():
    out = transforms.CenterCrop(32).map(record(picture("100x80"), 5, 9))
    np.testing.assert_array_equal(out["image"], CASE.output("center_crop_100x80_to_32"))
    assert (out["label"], out["index"]) == (5, 9)


def test_required_size():
    element = record(np.zeros((4, 6, 3), np.uint8), 0, 12)
    with pytest.raises(
        ValueError, match="image 12 is 6 wide and 4 high, not 4 each; set data.crop"
    ):
        transforms.RequireSize(4).map(element)
    square = record(np.zeros((4, 4, 3), np.uint8), 0, 12)
    assert transforms.RequireSize(4).map(square) is square


def test_squash_keeps_the_borders():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = 255
    squashed = transforms.squash(image, 20)
    assert squashed.shape == (20, 20, 3)
    assert (squashed[:, :8] == 0).all()
    assert (squashed[:, 12:] == 255).all()
