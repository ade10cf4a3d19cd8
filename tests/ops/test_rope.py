import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.ops.rope import apply_rotary, rotary_table
from tests.comparison import load_case


@pytest.mark.parametrize(("part", "head_dim"), [("enc", 12), ("dec", 16)])
def test_tables_match_upstream(part, head_dim):
    case = load_case("ditdh_tiny")
    cosines, sines = rotary_table(8, 8, head_dim)
    case.assert_close(f"constructed.{part}_feat_rope.freqs_cos", cosines)
    case.assert_close(f"constructed.{part}_feat_rope.freqs_sin", sines)


def test_rows_and_columns_turn_their_own_half():
    cosines, _ = rotary_table(3, 5, 8)
    grid = cosines.reshape(3, 5, 8)
    np.testing.assert_array_equal(grid[:, :, :4], np.broadcast_to(grid[:, :1, :4], (3, 5, 4)))
    np.testing.assert_array_equal(grid[:, :, 4:], np.broadcast_to(grid[:1, :, 4:], (3, 5, 4)))
    assert np.all(grid[0, 0] == 1) and np.all(grid[2, :, 0] != 1) and np.all(grid[:, 4, 4] != 1)


def test_pairs_are_turned_by_their_angle():
    x = jax.random.normal(jax.random.key(0), (2, 15, 3, 8))
    cosines, sines = rotary_table(3, 5, 8)
    turns = (cosines + 1j * sines)[None, :, None, ::2]
    expected = (np.asarray(x[..., ::2]) + 1j * np.asarray(x[..., 1::2])) * turns
    turned = np.asarray(apply_rotary(x, cosines, sines))
    np.testing.assert_allclose(turned[..., ::2], expected.real, rtol=0, atol=1e-6)
    np.testing.assert_allclose(turned[..., 1::2], expected.imag, rtol=0, atol=1e-6)


def test_products_depend_on_distance_alone():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    table = rotary_table(6, 6, 8)
    query, key = (apply_rotary(jnp.broadcast_to(x, (1, 36, 1, 8)), *table) for x in (query, key))
    products = np.einsum("nc,mc->nm", query[0, :, 0], key[0, :, 0]).reshape(6, 6, 6, 6)
    np.testing.assert_allclose(products[1, 2, 3, 1], products[2, 4, 4, 3], atol=1e-5)
    assert abs(products[1, 2, 3, 1] - products[1, 2, 3, 2]) > 1e-3


def test_angles_stay_in_float32():
    x = jax.random.normal(jax.random.key(0), (1, 15, 1, 8))
    turned = apply_rotary(x.astype(jnp.bfloat16), *rotary_table(3, 5, 8))
    assert turned.dtype == jnp.bfloat16
    exact = apply_rotary(x.astype(jnp.bfloat16).astype(jnp.float32), *rotary_table(3, 5, 8))
    np.testing.assert_array_equal(turned, exact.astype(jnp.bfloat16))


def test_head_dim_must_hold_two_pairs():
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        rotary_table(2, 2, 6)
