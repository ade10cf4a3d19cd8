"""The matrix products of a program, and the time that a machine takes for them alone."""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from rae_jax.benchmarking import filling
from rae_jax.monitoring.operations import equation_operations, products

_SHORTEST = 0.01
"""Seconds that a measurement lasts at least; small products are repeated."""


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of two arrays as any library has it.

    Attributes:
        shapes: Of both: [m, k] and [k, n], with a batch before if there is one; or images and
            kernel.
        dtype: Of both.
        output: Dtype of the result.
        convolution: Parameters of a convolution, by name; () for matrices.
    """

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: str
    output: str
    convolution: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, equation: core.JaxprEqn) -> "Product":
        """What an equation of a program multiplies, whatever the order of its axes."""
        first, second = (variable.aval for variable in equation.invars[:2])
        dtype, output = first.dtype.name, equation.outvars[0].aval.dtype.name
        if equation.primitive.name != "dot_general":
            parameters = tuple(sorted(equation.params.items()))
            return cls((first.shape, second.shape), dtype, output, parameters)
        (contracted, other_contracted), (batch, other_batch) = equation.params["dimension_numbers"]
        lead = math.prod(first.shape[axis] for axis in batch)
        depth = math.prod(first.shape[axis] for axis in contracted)
        rows = math.prod(first.shape) // (lead * depth)
        columns = math.prod(second.shape) // (lead * depth)
        before = (lead,) if lead > 1 else ()
        return cls(((*before, rows, depth), (*before, depth, columns)), dtype, output)

    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """The result."""
        if not self.convolution:
            return jnp.matmul(first, second, preferred_element_type=self.output)
        # The equation's own parameters, which the function of that name does not take.
        return jax.lax.conv_general_dilated_p.bind(first, second, **dict(self.convolution))

    def operands(self) -> tuple[jax.Array, jax.Array]:
        """Some numbers to multiply."""
        first, second = (
            jnp.asarray(filling.values(name, shape)).astype(self.dtype)
            for name, shape in zip(("first", "second"), self.shapes, strict=True)
        )
        return first, second


class Products:
    """All products of a program.

    Attributes:
        counts: How often each runs.
        operations: Of all of them.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        """Traces `function` and does not run it."""
        self.counts: Mapping[Product, int] = Counter()
        self.operations = 0.0
        for equation, times in products(function, *arguments):
            self.counts[Product.of(equation)] += times
            self.operations += times * equation_operations(equation)
        self._compiled: dict[Product, tuple[Any, int]] = {}

    def seconds(self) -> float:
        """Time that the products of one run take, each measured by itself, compiled alone."""
        return sum(count * self._seconds(product) for product, count in self.counts.items())

    def _seconds(self, product: Product) -> float:
        operands = product.operands()
        if product not in self._compiled:
            multiply = jax.jit(product.__call__)
            _timed(multiply, operands, 1)
            once = _timed(multiply, operands, 1)
            self._compiled[product] = multiply, math.ceil(_SHORTEST / max(once, 1e-6))
        return _timed(self._compiled[product][0], operands, self._compiled[product][1])


def _timed(function: Callable[..., jax.Array], operands: tuple[Any, ...], repeats: int) -> float:
    jax.block_until_ready(operands)
    start = time.perf_counter()
    for _ in range(repeats):
        result = function(*operands)
    result.block_until_ready()
    return (time.perf_counter() - start) / repeats
