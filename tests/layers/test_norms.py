import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.norms import affine_layer_norm, plain_layer_norm, rms_norm

TOKENS = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 3, 16))
SMALL = 1e-3 * (TOKENS - 3)


@pytest.mark.parametrize("tokens", [TOKENS, SMALL], ids=["usual", "near epsilon"])
def test_formulas(tokens):
    x = np.asarray(tokens, np.float64)
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    for norm, expected in (
        (rms_norm, x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)),
        (plain_layer_norm, centred / np.sqrt(variance + 1e-6)),
        (affine_layer_norm, centred / np.sqrt(variance + 1e-5)),
    ):
        np.testing.assert_allclose(norm(16, rngs=nnx.Rngs(0))(tokens), expected, atol=1e-5)


@pytest.mark.parametrize("norm", [rms_norm, plain_layer_norm, affine_layer_norm])
def test_float32_whatever_comes_in(norm):
    layer = norm(16, rngs=nnx.Rngs(0))
    tokens = TOKENS.astype(jnp.bfloat16)
    np.testing.assert_array_equal(layer(tokens), layer(tokens.astype(jnp.float32)))
    assert layer(tokens).dtype == jnp.float32


def test_parameters():
    for norm, names in (
        (rms_norm, {"scale"}),
        (plain_layer_norm, set()),
        (affine_layer_norm, {"scale", "bias"}),
    ):
        assert set(nnx.to_pure_dict(nnx.state(norm(16, rngs=nnx.Rngs(0)), nnx.Param))) == names
