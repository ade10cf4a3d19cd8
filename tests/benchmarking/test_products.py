"""The matrix products of a program, in the form in which they are timed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.benchmarking import products
from rae_jax.benchmarking.products import Products


def attend(query, key):
    return jnp.einsum("bnhd,bmhd->bhnm", query, key)


def test_products_are_those_of_any_library():
    query, key = jnp.zeros((2, 5, 3, 4)), jnp.zeros((2, 7, 3, 4))
    found = Products(attend, query, key)
    ((product, times),) = found.counts.items()
    # Batch, tokens by tokens; the axes in the program are others.
    assert product.shapes == ((6, 5, 4), (6, 4, 7))
    assert (product.dtype, times, found.operations) == ("float32", 1, 2 * 6 * 5 * 4 * 7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_timed_is_such_a_product(dtype):
    def loop(weights, tokens):
        body = lambda carry, weight: (carry @ weight, None)  # noqa: E731
        return jax.lax.scan(body, tokens, weights)[0]

    found = Products(loop, jnp.zeros((3, 8, 8), dtype), jnp.zeros((4, 8), dtype))
    ((product, times),) = found.counts.items()
    assert (product.shapes, product.dtype, times) == (((4, 8), (8, 8)), dtype, 3)
    first, second = products._operands(product)
    multiplied = products._multiplied(product, first, second)
    assert multiplied.dtype == dtype
    exact = np.asarray(first, np.float64) @ np.asarray(second, np.float64)
    np.testing.assert_allclose(np.asarray(multiplied, np.float64), exact, rtol=0.02, atol=0.05)


def test_seconds_are_those_of_all_products(monkeypatch):
    """Each counts as often as it runs."""

    def chain(a, b):
        return (a @ b) @ b @ b, a @ a

    timed = {((4, 4), (4, 8)): 1.0, ((4, 4), (4, 4)): 10.0}
    monkeypatch.setattr(
        products, "_timed", lambda _, operands, __: timed[tuple(x.shape for x in operands)]
    )
    small, wide = jnp.zeros((4, 4)), jnp.zeros((4, 8))
    found = Products(lambda a, b: (a @ b, *chain(a, a)), small, wide)
    assert found.seconds() == 1 + 4 * 10


def test_convolutions_are_bound_as_they_are():
    images, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 6))

    def convolve(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    ((product, _),) = Products(convolve, images, kernel).counts.items()
    np.testing.assert_array_equal(
        products._multiplied(product, images, kernel), convolve(images, kernel)
    )
