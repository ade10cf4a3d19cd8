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


TABLES = {
    # Entries, key of the table, whether its first row is a class token's, patch size, table's side.
    "encoder_mae_tiny": ("entries", "vit.embeddings.position_embeddings", True, 16, 4),
    "encoder_siglip2_tiny": (
        "entries",
        "vision_model.embeddings.position_embedding.weight",
        False,
        16,
        4,
    ),
    "encoder_dinov2_reg_tiny": (
        "encoder_entries",
        "embeddings.position_embeddings",
        True,
        14,
        5,
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_resized_tables_match_transformers(name):
    case = load_case(name)
    entries, key, has_class, patch, side = TABLES[name]
    table = case.entries(entries)[key]
    table = table.reshape(-1, table.shape[-1])
    antialias = "dinov2" in name
    outputs = [output for output in case.answers if output.startswith("position_")]
    assert len(outputs) == 3
    for output in outputs:
        height, width = (int(size) // patch for size in output[9:].split("x"))
        resized = resize_position_table(
            jnp.asarray(table[int(has_class) :]),
            (side, side),
            (height, width),
            antialias=antialias,
        )
        case.assert_close(output, np.concatenate([table[: int(has_class)], resized])[None])


def test_table_must_fill_its_grid():
    with pytest.raises(ValueError, match="3x4 grid needs 12 rows"):
        resize_position_table(jnp.zeros((10, 8)), (3, 4), (6, 8))


def test_table_on_its_own_grid_is_untouched():
    table = jnp.asarray(sincos_2d(8, 3, 4))
    np.testing.assert_array_equal(resize_position_table(table, (3, 4), (3, 4)), table)
