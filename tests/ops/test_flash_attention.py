import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu

from rae_jax.ops.attention import attention
from rae_jax.ops.flash_attention import flash_attention
from rae_jax.sharding.constrain import on_own_heads
from rae_jax.sharding.mesh import make_mesh
from tests.models.compiled import example


@pytest.mark.slow
@pytest.mark.parametrize("size", [72, 128])
def test_the_kernel_agrees_with_attention(size):
    arrays = [example((1, 128, 1, size)) * scale for scale in (1.0, 0.7, -0.4)]
    expected = jax.jit(attention)(*arrays)
    # On the CPU the kernel is interpreted.
    with tpu.force_tpu_interpret_mode():
        found = flash_attention(*arrays)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_kernel_is_cut_over_a_mesh():
    arrays = [example((8, 128, 2, 16)) * scale for scale in (1.0, 0.7, -0.4)]
    expected = jax.jit(attention)(*arrays)
    with jax.set_mesh(make_mesh(2, 2, 2)), tpu.force_tpu_interpret_mode():
        kernel = on_own_heads(flash_attention, batch=8, heads=2)
        assert kernel is not None
        found = jax.jit(kernel)(*arrays)
    assert found.sharding.spec == jax.P(("data", "fsdp"), None, "tensor")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_gradients_of_the_kernel_agree():
    arrays = [example((1, 128, 1, 16)) * scale for scale in (1.0, 0.7, -0.4)]

    def gradients(function, *arrays):
        return jax.grad(lambda *x: jnp.square(function(*x)).sum(), argnums=(0, 1, 2))(*arrays)

    expected = gradients(attention, *arrays)
    # JAX traces the backward kernels outside of what `flash_attention` allows.
    with (
        tpu.force_tpu_interpret_mode(),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        found = gradients(flash_attention, *arrays)
    for ours, gradient in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, gradient, rtol=0, atol=2e-6)


def test_tokens_that_make_no_blocks_are_refused():
    arrays = [example((1, 257, 1, 8))] * 3
    with pytest.raises(ValueError, match="got 257"):
        flash_attention(*arrays)
