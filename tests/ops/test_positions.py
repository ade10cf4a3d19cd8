import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.ops.positions import resize_position_table, sincos_2d
from tests.comparison import load_case


def test_sincos_matches_the_decoder_table():
    case = load_case("decoder_tiny")
    table = sincos_2d(48, 4, 4)
    case.assert_close("decoder_pos_embed", np.concatenate([np.zeros((1, 48)), table])[None])


def test_sincos_encodes_the_column_first():
    table = sincos_2d(8, 2, 3).reshape(2, 3, 8)
    np.testing.assert_array_equal(table[0, :, :4], table[1, :, :4])
    np.testing.assert_array_equal(table[:, 0, 4:], table[:, 2, 4:])
    np.testing.assert_allclose(table[1, 2, :4], np.r_[np.sin([2, 0.02]), np.cos([2, 0.02])], 1e-6)


def test_sincos_needs_a_multiple_of_four():
    with pytest.raises(ValueError, match="multiple of 4.*got 6"):
        sincos_2d(6, 2, 2)


@pytest.mark.parametrize("size", ["96x96", "48x48", "32x80"])
def test_resized_table_matches_transformers(size):
    case = load_case("encoder_mae_tiny")
    table = case.entries()["vit.embeddings.position_embeddings"][0]
    height, width = (int(side) // 16 for side in size.split("x"))
    resized = resize_position_table(jnp.asarray(table[1:]), (4, 4), (height, width))
    case.assert_close(f"position_{size}", np.concatenate([table[:1], resized])[None])


def test_table_must_fill_its_grid():
    with pytest.raises(ValueError, match="3x4 grid needs 12 rows"):
        resize_position_table(jnp.zeros((10, 8)), (3, 4), (6, 8))


def test_table_on_its_own_grid_is_untouched():
    table = jnp.asarray(sincos_2d(8, 3, 4))
    np.testing.assert_array_equal(resize_position_table(table, (3, 4), (3, 4)), table)
