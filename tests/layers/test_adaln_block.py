import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.adaln_block import AdaLNBlock, AdaLNOutput, BlockStyle
from rae_jax.layers.linear import torch_linear
from tests.models.compiled import filled, run

TOKENS, CONDITION = jax.random.normal(jax.random.key(0), (2, 2, 6, 16))


def block(style=BlockStyle(), dtype=jnp.float32):  # noqa: B008
    return filled(
        lambda: AdaLNBlock(16, 2, style, linear=torch_linear, dtype=dtype, rngs=nnx.Rngs(0))
    )


def test_a_fresh_block_is_the_identity_and_a_fresh_output_zero():
    style = BlockStyle()
    fresh = AdaLNBlock(16, 2, style, linear=torch_linear, dtype=jnp.float32, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(fresh(TOKENS, CONDITION, None), TOKENS)
    output = AdaLNOutput(16, 12, style, dtype=jnp.float32, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(output(TOKENS, CONDITION), jnp.zeros((2, 6, 12)))


def test_without_shift_there_are_four_chunks_in_the_same_order():
    shifted, plain = block(), block(BlockStyle(use_shift=False))
    kernel = np.array(shifted.modulation.kernel[...]).reshape(16, 6, 16)
    bias = np.array(shifted.modulation.bias[...]).reshape(6, 16)
    plain.modulation.kernel[...] = jnp.asarray(kernel[:, [1, 2, 4, 5]].reshape(16, 64))
    plain.modulation.bias[...] = jnp.asarray(bias[[1, 2, 4, 5]].reshape(64))
    kernel[:, [0, 3]] = bias[[0, 3]] = 0
    shifted.modulation.kernel[...] = jnp.asarray(kernel.reshape(16, 96))
    shifted.modulation.bias[...] = jnp.asarray(bias.reshape(96))
    np.testing.assert_allclose(
        run(plain, TOKENS, CONDITION, None), run(shifted, TOKENS, CONDITION, None), atol=1e-6
    )


def test_one_condition_for_all_equals_the_same_for_each():
    one = CONDITION[:, :1]
    each = jnp.broadcast_to(one, CONDITION.shape)
    np.testing.assert_allclose(
        run(block(), TOKENS, one, None), run(block(), TOKENS, each, None), atol=1e-5
    )


@pytest.mark.parametrize(
    ("style", "inner"),
    [
        (BlockStyle(), 42),
        (BlockStyle(mlp_ratio=2.6), 27),
        (BlockStyle(use_swiglu=False, mlp_ratio=2.6), 41),
    ],
)
def test_inner_width(style, inner):
    assert block(style).mlp.down.kernel.shape == (inner, 16)


def test_bfloat16_keeps_a_float32_residual():
    tokens = 1000 + TOKENS
    out = run(block(dtype=jnp.bfloat16), tokens, CONDITION, None)
    assert out.dtype == jnp.float32
    exact = run(block(), tokens, CONDITION, None)
    # A bfloat16 residual of this size would be off by up to 2.
    np.testing.assert_allclose(out, exact, rtol=0, atol=0.3)
