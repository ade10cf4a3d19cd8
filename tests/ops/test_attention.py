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


def test_many_logits_give_what_few_do_with_gradients():
    # So many that on CPU the heads come a few at a time, twelve in groups of four.
    arrays = [example((2, n, 6, 8)) for n in (300, 301, 301)]

    def values(implementation):
        def loss(*arrays):
            mixed = attention(*arrays, implementation=implementation)
            return jnp.square(mixed).sum(), mixed

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)

    (gradients, mixed), (expected_gradients, expected) = values(None), values("xla")
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-6)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-5)
