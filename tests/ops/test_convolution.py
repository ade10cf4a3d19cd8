"""Convolution agrees with XLA's own, forward and back, on every platform's path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.ops.convolution import convolve

# Sides, window and zeros around.
CASES = {
    "maps": ((6, 7), (3, 3), 1),
    "maps, no zeros": ((6, 7), (3, 2), 0),
    "maps, single pixels": ((4, 5), (1, 1), 0),
    "tokens": ((11,), (5,), 0),
    "tokens, zeros": ((11,), (3,), 2),
}


def xla(maps, kernel, padding):
    sides = "HW"[: maps.ndim - 2]
    return jax.lax.conv_general_dilated(
        maps,
        kernel,
        (1,) * len(sides),
        [(padding, padding)] * len(sides),
        dimension_numbers=(f"N{sides}C", f"{sides}IO", f"N{sides}C"),
    )


@pytest.mark.parametrize("where", ["plain", "branch", "loop"])
@pytest.mark.parametrize(("sides", "window", "padding"), CASES.values(), ids=CASES)
def test_value_and_gradients_are_those_of_xla(sides, window, padding, where):
    rng = np.random.default_rng(0)
    maps = jnp.asarray(rng.standard_normal((2, *sides, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((*window, 3, 4)), jnp.float32)

    def gradients(function):
        def loss(maps, kernel):
            values = function(maps, kernel, padding)
            return (jnp.sin(values) @ jnp.arange(1.0, 5.0)).sum(), values

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)

    def ours(maps, kernel):
        compute = gradients(convolve)
        if where == "branch":
            shapes = jax.eval_shape(compute, maps, kernel)
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            return jax.lax.cond(maps.sum() < 1e9, compute, lambda *_: zeros, maps, kernel)
        if where == "loop":
            found = jax.lax.map(lambda kernel: compute(maps, kernel), kernel[None])
            return jax.tree.map(lambda leaf: leaf[0], found)
        return compute(maps, kernel)

    found, expected = jax.jit(ours)(maps, kernel), gradients(xla)(maps, kernel)
    for ours_leaf, leaf in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours_leaf.shape == leaf.shape
        np.testing.assert_allclose(ours_leaf, leaf, rtol=1e-5, atol=2e-5)


def test_gradients_within_loops_keep_to_the_order_of_axes_that_is_fast_on_processors():
    maps, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((1, 3, 3, 3, 4))

    def by_kernels(kernel):
        one = jax.grad(lambda kernel: (convolve(maps, kernel, 1) ** 2).sum())
        return jax.lax.map(one, kernel)

    lines = jax.jit(by_kernels).lower(kernel).compile().as_text().splitlines()
    orders = {line.split("dim_labels=")[1].split(",")[0] for line in lines if "dim_labels" in line}
    assert orders == {"b01f_01io->b01f"}
