import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.mlp import Mlp, SwiGLU, exact_gelu, tanh_gelu
from tests.models.compiled import example, filled, run


def test_exact_and_tanh_gelu():
    values = np.linspace(-3, 3, 13)
    exact = [x * 0.5 * (1 + math.erf(x / 2**0.5)) for x in values]
    tanh = 0.5 * values * (1 + np.tanh((2 / np.pi) ** 0.5 * (values + 0.044715 * values**3)))
    inputs = jnp.asarray(values, jnp.float32)
    np.testing.assert_allclose(exact_gelu(inputs), exact, rtol=0, atol=1e-6)
    np.testing.assert_allclose(tanh_gelu(inputs), tanh, rtol=0, atol=1e-6)
    assert np.abs(np.asarray(exact) - tanh).max() > 1e-4


def test_mlp():
    layer = filled(lambda: Mlp(6, 10, activation=jax.nn.relu, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    tokens = example((2, 3, 6))
    inner = np.maximum(tokens @ layer.up.kernel[...] + layer.up.bias[...][None, None], 0)
    expected = inner @ layer.down.kernel[...] + layer.down.bias[...][None, None]
    np.testing.assert_allclose(run(layer, tokens), expected, rtol=0, atol=1e-5)


def test_swiglu_gates_with_the_first_half():
    layer = filled(lambda: SwiGLU(6, 10, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    tokens = example((2, 3, 6))
    fused = np.asarray(tokens @ layer.gate_up.kernel[...] + layer.gate_up.bias[...][None, None])
    gate, up = fused[..., :10], fused[..., 10:]
    inner = gate / (1 + np.exp(-gate)) * up
    expected = inner @ np.asarray(layer.down.kernel[...]) + np.asarray(layer.down.bias[...])
    np.testing.assert_allclose(run(layer, tokens), expected, rtol=0, atol=1e-5)
