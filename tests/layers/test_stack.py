import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.stack import scan_layers, stack_layers


class Layer(nnx.Module):
    def __init__(self, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (2, 2)))

    def __call__(self, x):
        return jnp.tanh(x @ self.kernel[...])


@pytest.fixture(scope="module")
def layers():
    return stack_layers(Layer, 3, nnx.Rngs(0))


def one_by_one(kernels, x):
    outputs = []
    for kernel in np.asarray(kernels):
        x = np.tanh(x @ kernel)
        outputs.append(x)
    return outputs


def test_layers_differ_and_are_stacked_on_the_first_axis(layers):
    kernels = layers.kernel[...]
    assert kernels.shape == (3, 2, 2)
    assert np.all(kernels[0] != kernels[1])


@pytest.mark.parametrize("ways", [{}, {"unroll": 3}, {"remat": "full"}, {"remat": "dots"}])
def test_layers_are_applied_in_turn(layers, ways):
    x = jnp.float32([[0.5, -1.0]])

    def total(layers):
        carry, outputs = scan_layers(
            lambda x, layer: layer(x), layers, x, keep_outputs=True, **ways
        )
        return carry.sum(), (carry, outputs)

    definition, weights = nnx.split(layers)
    gradients, (carry, outputs) = jax.jit(
        jax.grad(lambda weights: total(nnx.merge(definition, weights)), has_aux=True)
    )(weights)
    expected = one_by_one(layers.kernel[...], np.asarray(x))
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(carry, outputs[-1])
    # The last layer's gradient by hand: outer product of its input and 1 - output².
    last = np.outer(expected[1], 1 - expected[2] ** 2)
    np.testing.assert_allclose(gradients["kernel"][...][2], last, rtol=0, atol=1e-6)


def test_what_cannot_be_stacked_or_recomputed_is_refused(layers):
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        stack_layers(Layer, 0, nnx.Rngs(0))
    with pytest.raises(ValueError, match="remat must be one of .* got 'some'"):
        scan_layers(lambda x, layer: layer(x), layers, jnp.ones((1, 2)), remat="some")
