import jax
import numpy as np
import pytest

from rae_jax.models.autoencoders.tiling import Tiling, in_tiles
from tests.models.compiled import example


def tiled(function, values, tiling, scale=1):
    overlap, keep = (
        tuple(int(side * scale) for side in p) for p in (tiling.overlap, tiling.stride)
    )
    return jax.jit(lambda values: in_tiles(function, values, tiling, overlap=overlap, keep=keep))(
        values
    )


@pytest.mark.parametrize("size, stride", [((4, 6), (3, 4)), ((5, 4), (2, 4)), ((20, 5), (20, 3))])
def test_what_sees_single_pixels_gives_the_same_in_tiles(size, stride):
    values = example((2, 11, 9, 3))
    enlarged = tiled(
        lambda maps: maps.repeat(2, axis=1).repeat(2, axis=2), values, Tiling(size, stride), 2
    )
    expected = values.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(enlarged, expected, rtol=0, atol=1e-6)


def test_tiles_fade_into_each_other():
    # Every tile is as bright as its place, in a row of pixels.
    values = np.arange(8, dtype=np.float32).reshape(1, 1, 8, 1)
    faded = tiled(
        lambda maps: 0 * maps + maps[:, :, :1], jax.numpy.asarray(values), Tiling((1, 4), (1, 2))
    )
    # Tiles begin at 0, 2, 4, 6. The first pixel of each is still the one before, the next both.
    np.testing.assert_allclose(faded.reshape(-1), [0, 0, 0, 1, 2, 3, 4, 5])


def test_memory_is_that_of_a_tile():
    def wide(maps):
        return maps.repeat(64, axis=-1).sum(axis=-1, keepdims=True) ** 2

    def memory(side):
        values = jax.ShapeDtypeStruct((1, side, side, 1), "float32")
        whole = jax.jit(
            lambda values: in_tiles(
                wide, values, Tiling((16, 16), (16, 16)), overlap=(0, 0), keep=(16, 16)
            )
        )
        return whole.lower(values).compile().memory_analysis().temp_size_in_bytes

    # Sixteen times the pixels: the tiles themselves, but not what it takes to compute them.
    assert memory(128) - memory(32) < 8 * 4 * 128**2


@pytest.mark.parametrize("stride", [(0, 4), (4, 5)])
def test_tiles_that_leave_gaps_are_refused(stride):
    with pytest.raises(ValueError, match=r"strides above 0 and at most as large, got \(., .\)"):
        Tiling((4, 4), stride)


def test_places():
    tiling = Tiling()
    assert tiling.cuts(513, 8) and tiling.cuts(8, 513) and not tiling.cuts(512, 512)
    assert tiling.of_latents(32) == Tiling((16, 16), (14, 14))
    with pytest.raises(ValueError, match="must be multiples of 128"):
        tiling.require_multiples(128)
