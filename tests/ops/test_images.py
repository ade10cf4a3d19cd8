import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.ops import images
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.golden import recipe

RESIZED = ["64_to_56x56", "56_to_64x64", "100_to_37x47"]


METHODS = {
    "bicubic": images.resize_bicubic,
    "bicubic_antialias": images.resize_bicubic_antialiased,
    "bilinear": images.resize_bilinear,
}


@pytest.mark.parametrize("name", RESIZED)
@pytest.mark.parametrize("method", METHODS)
def test_resize_matches_torch(method, name):
    case = load_case("bicubic_resize")
    source, target = name.split("_to_")
    height, width = map(int, target.split("x"))
    picture = jnp.asarray(nchw_to_nhwc(case.input(f"x{source}")))
    resized = METHODS[method](picture, height, width)
    case.assert_close(f"{method}_{name}", nhwc_to_nchw(resized))


@pytest.mark.parametrize("resize", METHODS.values(), ids=METHODS)
def test_resize_keeps_constants_and_dtype(resize):
    picture = jnp.full((2, 5, 7, 3), 0.25, jnp.bfloat16)
    resized = resize(picture, 11, 3)
    assert resized.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(resized, np.float32), np.float32(0.25))


def test_resize_to_the_same_size_changes_nothing():
    picture = jnp.asarray(recipe.uniform("picture", (1, 6, 9, 3)))
    for resize in METHODS.values():
        np.testing.assert_array_equal(resize(picture, 6, 9), picture)


def test_bytes_survive_the_round_trip():
    levels = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    values = images.to_float(levels)
    assert float(values.min()) == 0 and float(values.max()) == 1
    np.testing.assert_array_equal(images.to_uint8(values), levels)


def test_to_uint8_rounds_and_clips():
    values = jnp.asarray([-0.2, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.3]).reshape(1, 5, 1)
    np.testing.assert_array_equal(images.to_uint8(values).ravel(), [0, 0, 1, 255, 255])


def test_normalize_works_per_channel_and_denormalize_undoes_it():
    picture = jnp.asarray(recipe.uniform("picture", (2, 3, 3, 3)))
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.5, 1.0)
    normal = images.normalize(picture, mean, std)
    expected = (np.asarray(picture) - np.float32(mean)) / np.float32(std)
    np.testing.assert_allclose(normal, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(images.denormalize(normal, mean, std), picture, rtol=0, atol=1e-6)


def test_channel_counts_must_agree():
    with pytest.raises(ValueError, match="4 channels"):
        images.normalize(jnp.zeros((1, 2, 2, 4)), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
