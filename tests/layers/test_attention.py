import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.attention import SelfAttention
from rae_jax.layers.functional import abstract, split
from rae_jax.layers.linear import torch_linear
from rae_jax.sharding.mesh import make_mesh
from tests.models.compiled import example, filled, run

RMS_NORM = functools.partial(nnx.RMSNorm, epsilon=1e-6, dtype=jnp.float32)


def tiny(**changes):
    return filled(lambda: SelfAttention(8, 2, dtype=jnp.float32, **changes, rngs=nnx.Rngs(0)))


def by_hand(layer, tokens, change_query_or_key=lambda values, norm: values):
    """Attention head by head in float64."""
    kernel = np.asarray(layer.qkv.kernel[...], np.float64)
    fused = np.asarray(tokens, np.float64) @ kernel
    if layer.qkv.bias is not None:
        fused = fused + np.asarray(layer.qkv.bias[...])
    query, key, value = np.split(fused, 3, axis=-1)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        q = change_query_or_key(query[..., head], layer.query_norm)
        k = change_query_or_key(key[..., head], layer.key_norm)
        logits = q @ k.swapaxes(-1, -2) / 4**0.5
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ value[..., head])
    out = np.asarray(layer.out.kernel[...], np.float64)
    return np.concatenate(heads, axis=-1) @ out + np.asarray(layer.out.bias[...])


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_attention_head_by_head(qkv_bias):
    layer, tokens = tiny(qkv_bias=qkv_bias), example((2, 5, 8))
    np.testing.assert_allclose(run(layer, tokens), by_hand(layer, tokens), rtol=0, atol=1e-5)


def test_queries_and_keys_are_normed_per_head():
    layer, tokens = tiny(qk_norm=RMS_NORM), example((2, 5, 8))

    def normed(values, norm):
        return (
            values
            / np.sqrt((values**2).mean(-1, keepdims=True) + 1e-6)
            * np.asarray(norm.scale[...])
        )

    expected = by_hand(layer, tokens, normed)
    np.testing.assert_allclose(run(layer, tokens), expected, rtol=0, atol=1e-5)


def test_rotation_by_position_turns_queries_and_keys():
    layer, tokens = tiny(), example((2, 5, 8))
    angles = jnp.repeat(jnp.arange(5.0)[:, None] * jnp.asarray([[1.0, 0.1]]), 2, axis=1)
    rotary = (jnp.cos(angles), jnp.sin(angles))
    turned = run(layer, tokens, rotary)
    assert float(jnp.abs(turned - run(layer, tokens)).max()) > 1e-3
    # Only differences of positions count: the same further turn of every token changes nothing.
    further = (jnp.cos(angles + 0.7), jnp.sin(angles + 0.7))
    np.testing.assert_allclose(run(layer, tokens, further), turned, rtol=0, atol=1e-5)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="got 3 heads for 8"):
        SelfAttention(8, 3, dtype=jnp.float32, rngs=nnx.Rngs(0))


def test_instances_share_one_definition():
    definitions = [nnx.graphdef(tiny(linear=torch_linear, qk_norm=RMS_NORM)) for _ in range(2)]
    assert definitions[0] == definitions[1]


def has_kernel(count, *, platform="tpu", dtype=jnp.bfloat16, batch=8, gradient=False):
    """Whether the program for a platform calls a Pallas kernel."""
    layer = abstract(lambda: SelfAttention(32, 2, dtype=dtype, rngs=nnx.Rngs(0)))
    definition, weights = split(layer)

    def loss(weights, tokens):
        return jnp.square(definition.merge(weights)(tokens).astype(jnp.float32)).sum()

    tokens = jax.ShapeDtypeStruct((batch, count, 32), dtype)
    function = jax.jit(jax.grad(loss) if gradient else loss)
    # The kernels mix dtypes and ranks, their gradients where nobody but the caller can allow it.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        traced = function.trace(weights, tokens)
        return "tpu_custom_call" in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("gradient", [False, True])
def test_long_rows_take_the_kernel_on_tpus(gradient):
    assert has_kernel(1024, gradient=gradient)
    with jax.set_mesh(make_mesh(2, 2, 2)):
        assert has_kernel(1024, gradient=gradient)


@pytest.mark.parametrize(
    "other",
    [
        {"count": 256},
        {"count": 1025},
        {"count": 1024, "platform": "cpu"},
        {"count": 1024, "dtype": jnp.float32},
    ],
)
def test_elsewhere_xla_makes_attention(other):
    assert not has_kernel(**other)


def test_a_batch_that_does_not_divide_over_the_mesh_is_left_to_xla():
    with jax.set_mesh(make_mesh(8)):
        assert not has_kernel(1024, batch=4)
