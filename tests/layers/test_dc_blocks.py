import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers import dc_blocks
from tests.models.compiled import example, filled, run


@pytest.mark.parametrize("tokens", [4, 5])
def test_attention_is_its_definition_in_both_orders(tokens):
    # Four channels: the order of the products changes between four and five tokens.
    query, key, value = example((3, 2, tokens, 3, 4))
    found = dc_blocks.relu_attention(query, key, value)
    positive = np.maximum(query, 0), np.maximum(key, 0)
    weights = np.einsum("bnhd,bmhd->bhnm", *positive)
    weights /= weights.sum(axis=-1, keepdims=True) + 1e-15
    expected = np.einsum("bhnm,bmhd->bnhd", weights, value)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", [4, 5])
def test_attention_to_nothing_is_zero(tokens):
    shape = (1, tokens, 1, 4)
    found = dc_blocks.relu_attention(-jnp.ones(shape), jnp.ones(shape), jnp.ones(shape))
    np.testing.assert_array_equal(found, jnp.zeros(shape))


def test_attention_is_computed_in_float32():
    query = example((1, 300, 1, 4)).astype(jnp.bfloat16)
    found = dc_blocks.relu_attention(query, query, query)
    assert found.dtype == jnp.float32
    exact = dc_blocks.relu_attention(*(query.astype(jnp.float32),) * 3)
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_depthwise_convolution_is_a_grouped_convolution(kernel_size):
    module = filled(
        lambda: dc_blocks.DepthwiseConvolution(6, kernel_size, dtype=jnp.float32, rngs=nnx.Rngs(0))
    )
    maps = example((2, 4, 5, 6))
    expected = jax.lax.conv_general_dilated(
        maps,
        module.kernel[...][:, :, None],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=6,
    )
    expected += module.bias[...][None, None, None]
    np.testing.assert_allclose(run(module, maps), expected, rtol=0, atol=1e-5)


def test_norms():
    maps = example((2, 3, 3, 8))
    values = np.asarray(maps)
    by_channel = filled(lambda: dc_blocks.ChannelRMSNorm(8))
    scale, bias = (np.asarray(leaf[...]) for leaf in (by_channel.scale, by_channel.bias))
    expected = values / np.sqrt(np.square(values).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(by_channel(maps), expected * scale + bias, rtol=0, atol=1e-5)
    assert by_channel(maps.astype(jnp.bfloat16)).dtype == jnp.bfloat16

    by_batch = filled(lambda: dc_blocks.StaticBatchNorm(8))
    by_batch.variance.set_value(jnp.linspace(0.1, 2, 8))
    scale, bias, mean, variance = (
        np.asarray(leaf[...])
        for leaf in (by_batch.scale, by_batch.bias, by_batch.mean, by_batch.variance)
    )
    expected = (values - mean) / np.sqrt(variance + 1e-5) * scale + bias
    np.testing.assert_allclose(by_batch(maps), expected, rtol=0, atol=1e-5)


def test_fresh_parameters_keep_the_scale():
    maps = example((1, 8, 8, 16))
    options = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    block = dc_blocks.MultiscaleLinearAttention(16, 8, (5,), norm="rms_norm", **options)
    for path, leaf in nnx.to_flat_state(nnx.state(block)):
        if path[-1] == "kernel":
            assert 0.1 < float(leaf[...].std()) < 0.5, path
    assert 0.5 < float((run(block, maps) - maps).std()) < 2
