import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.ops.patches import patchify, unpatchify


def test_patches_are_in_raster_order_and_channels_run_fastest():
    images = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    for row in range(2):
        for column in range(3):
            square = images[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(patches[:, 3 * row + column], square.reshape(2, -1))


def test_unpatchify_undoes_patchify():
    images = jnp.arange(2 * 8 * 12 * 3, dtype=jnp.float32).reshape(2, 8, 12, 3)
    np.testing.assert_array_equal(unpatchify(patchify(images, 4), (2, 3), 4), images)


def test_sides_that_the_patch_size_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="width 10 is not a multiple of patch_size 4.*resize to 8"):
        patchify(jnp.zeros((1, 8, 10, 3)), 4)
    with pytest.raises(ValueError, match="height 3 is not a multiple of patch_size 4.*to 4"):
        patchify(jnp.zeros((1, 3, 8, 3)), 4)


def test_patches_that_do_not_fill_the_grid_are_refused():
    with pytest.raises(ValueError, match="2x3 needs 6 patches, got 5"):
        unpatchify(jnp.zeros((1, 5, 12)), (2, 3), 2)
    with pytest.raises(ValueError, match="13 values"):
        unpatchify(jnp.zeros((1, 6, 13)), (2, 3), 2)
