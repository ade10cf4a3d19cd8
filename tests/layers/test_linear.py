import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.linear import normal_linear, torch_linear, xavier_linear


def test_xavier_is_uniform_over_both_widths():
    layer = xavier_linear(100, 300, dtype=jnp.float32, rngs=nnx.Rngs(0))
    bound = (6 / 400) ** 0.5
    kernel = np.asarray(layer.kernel[...])
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert np.isclose(kernel.std(), bound / 3**0.5, rtol=0.01)
    assert not np.any(layer.bias[...])


def test_torch_default_is_uniform_over_the_input_width():
    layer = torch_linear(100, 300, dtype=jnp.float32, rngs=nnx.Rngs(0))
    for values in (np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])):
        assert 0.09 < np.abs(values).max() <= 0.1
        assert np.isclose(values.std(), 0.1 / 3**0.5, rtol=0.1)


def test_normal_has_one_deviation_whatever_the_widths():
    layer = normal_linear(100, 300, dtype=jnp.float32, rngs=nnx.Rngs(0))
    kernel = np.asarray(layer.kernel[...])
    assert np.isclose(kernel.std(), 0.02, rtol=0.02) and np.abs(kernel).max() > 0.06
    assert not np.any(layer.bias[...])


@pytest.mark.parametrize("linear", [normal_linear, torch_linear, xavier_linear])
def test_instances_share_one_definition(linear):
    first, second = (
        nnx.graphdef(linear(4, 5, dtype=jnp.float32, rngs=nnx.Rngs(seed))) for seed in (0, 1)
    )
    assert first == second


@pytest.mark.parametrize("linear", [normal_linear, torch_linear, xavier_linear])
def test_bias_can_be_left_out(linear):
    layer = linear(4, 5, use_bias=False, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert layer.bias is None or layer.bias.get_value() is None
