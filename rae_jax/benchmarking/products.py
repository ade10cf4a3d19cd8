"""The matrix products of a program, and the time that a machine takes for them alone."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rae_jax.benchmarking import filling
from rae_jax.monitoring.operations import Product, products

_SHORTEST = 0.01
"""Seconds that a measurement lasts at least; small products are repeated."""


class Products:
    """All matrix products and convolutions of a program.

    Attributes:
        counts: How often each runs.
        operations: Of all of them.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        """Traces `function` and does not run it."""
        self.counts = products(function, *arguments)
        self.operations = sum(times * product.operations for product, times in self.counts.items())
        self._compiled: dict[Product, tuple[Callable[..., jax.Array], int]] = {}

    def seconds(self) -> float:
        """Time that the products of one run take, each measured by itself, compiled alone."""
        return sum(times * self._seconds(product) for product, times in self.counts.items())

    def _seconds(self, product: Product) -> float:
        operands = _operands(product)
        if product not in self._compiled:
            multiply = jax.jit(functools.partial(_multiplied, product))
            _timed(multiply, operands, 1)
            once = _timed(multiply, operands, 1)
            self._compiled[product] = multiply, math.ceil(_SHORTEST / max(once, 1e-6))
        return _timed(self._compiled[product][0], operands, self._compiled[product][1])


def _multiplied(product: Product, first: jax.Array, second: jax.Array) -> jax.Array:
    if product.convolution:
        # The parameters are the program's own, which the public function does not take.
        return jax.lax.conv_general_dilated_p.bind(first, second, **dict(product.convolution))
    return jnp.matmul(first, second, preferred_element_type=product.output)


def _operands(product: Product) -> tuple[jax.Array, jax.Array]:
    first, second = (
        jnp.asarray(filling.values(name, shape)).astype(product.dtype)
        for name, shape in zip(("first", "second"), product.shapes, strict=True)
    )
    return first, second


def _timed(function: Callable[..., jax.Array], operands: tuple[Any, ...], repeats: int) -> float:
    jax.block_until_ready(operands)
    start = time.perf_counter()
    for _ in range(repeats - 1):
        function(*operands)
    function(*operands).block_until_ready()
    return (time.perf_counter() - start) / repeats
