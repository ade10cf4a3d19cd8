import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.ops.space_depth import (
    average_channels,
    enlarged_convolution,
    pixel_shuffle,
    pixel_unshuffle,
    repeat_channels,
)
from tests.models.compiled import example


def test_squares_become_channels_in_order():
    maps = jnp.arange(2 * 4 * 2.0).reshape(1, 4, 2, 2)
    squares = pixel_unshuffle(maps, 2)
    # Channel by channel, row by row.
    np.testing.assert_array_equal(squares[0, 0, 0], [0, 2, 4, 6, 1, 3, 5, 7])
    np.testing.assert_array_equal(squares[0, 1, 0], [8, 10, 12, 14, 9, 11, 13, 15])
    np.testing.assert_array_equal(pixel_shuffle(squares, 2), maps)


def test_odd_sides_have_no_squares():
    with pytest.raises(ValueError, match="multiples of 2, got 3 x 4"):
        pixel_unshuffle(jnp.zeros((1, 3, 4, 2)), 2)


def test_channels_are_averaged_and_repeated_in_groups_of_neighbours():
    maps = jnp.arange(6.0).reshape(1, 1, 1, 6)
    np.testing.assert_array_equal(average_channels(maps, 3)[0, 0, 0], [0.5, 2.5, 4.5])
    repeated = repeat_channels(maps[..., :2], 6)
    np.testing.assert_array_equal(repeated[0, 0, 0], [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(average_channels(repeated, 2), maps[..., :2])


def test_enlarged_convolution_is_the_convolution_of_enlarged_maps():
    maps, kernel = example((2, 5, 3, 4)), example((3, 3, 4, 6))
    enlarged = maps.repeat(2, axis=1).repeat(2, axis=2)
    expected = jax.lax.conv_general_dilated(
        enlarged, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(
        jax.jit(enlarged_convolution)(maps, kernel), expected, rtol=0, atol=1e-5
    )
