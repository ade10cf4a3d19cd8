import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu

from rae_jax.ops.attention import attention
from tests.models.compiled import example


@pytest.mark.slow
@pytest.mark.parametrize("size", [72, 128])
def test_the_kernel_agrees_with_attention(size):
    arrays = [example((1, 128, 1, size)) * scale for scale in (1.0, 0.7, -0.4)]
    expected = jax.jit(attention)(*arrays)
    # On the CPU the kernel is interpreted.
    with tpu.force_tpu_interpret_mode():
        found = attention(*arrays, implementation="flash")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_gradients_of_the_kernel_agree():
    arrays = [example((1, 128, 1, 16)) * scale for scale in (1.0, 0.7, -0.4)]

    def loss(implementation, *arrays):
        return jnp.square(attention(*arrays, implementation=implementation)).sum()

    gradients = jax.grad(loss, argnums=(1, 2, 3))
    expected = gradients("xla", *arrays)
    # JAX traces the backward kernels outside of what `flash_attention` allows.
    with (
        tpu.force_tpu_interpret_mode(),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        found = gradients("flash", *arrays)
    for ours, gradient in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, gradient, rtol=0, atol=2e-6)


def test_tokens_that_make_no_blocks_are_refused():
    arrays = [example((1, 257, 1, 8))] * 3
    with pytest.raises(ValueError, match="got 257"):
        attention(*arrays, implementation="flash")
