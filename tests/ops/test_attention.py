import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.ops.attention import attention
from tests.models.compiled import example


def test_bfloat16_stays_bfloat16_and_close_under_strict_promotion():
    query, key, value = (example((1, n, 2, 4)) for n in (3, 5, 5))
    exact = jax.jit(attention)(query, key, value)
    halves = [array.astype(jnp.bfloat16) for array in (query, key, value)]
    rounded = jax.jit(attention)(*halves)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, rtol=0, atol=0.02)


def test_gradients_in_bfloat16_stay_close():
    arrays = [example((1, n, 2, 4)) for n in (3, 5, 5)]
    gradients = jax.grad(lambda *arrays: jnp.square(attention(*arrays)).sum(), argnums=(0, 1, 2))
    exact = jax.jit(gradients)(*arrays)
    # JAX compiles the transposed products of such arrays under standard promotion only.
    with jax.numpy_dtype_promotion("standard"):
        rounded = jax.jit(gradients)(*(array.astype(jnp.bfloat16) for array in arrays))
    for close, gradient in zip(rounded, exact, strict=True):
        assert close.dtype == jnp.bfloat16
        np.testing.assert_allclose(close.astype(jnp.float32), gradient, rtol=0, atol=0.05)
