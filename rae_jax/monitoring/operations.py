"""Floating-point operations of a program, and their rate against what the devices can do."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from jax.extend import core

_PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    # Two of JAX's devices make a chip.
    "TPU7x": 1153.5e12,
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}
"""Dense bfloat16 operations per second of one device, by a part of its name; makers' figures."""


def count_operations(function: Callable[..., Any], *arguments: Any) -> float:
    """Operations of the matrix products and convolutions in `function`, two per multiply-add.

    XLA's own count takes the body of a loop once, however often it runs. Here a scan counts its
    length times and of two branches the more expensive one is taken; only loops of unknown length
    count once.

    Args:
        function: Is traced and not run.
        *arguments: Arrays or their shapes.
    """
    return _total(products(function, *arguments))


def products(function: Callable[..., Any], *arguments: Any) -> list[tuple[core.JaxprEqn, int]]:
    """The equations that `count_operations` counts, and how often each runs."""
    return list(_products(jax.make_jaxpr(function)(*arguments).jaxpr))


def equation_operations(equation: core.JaxprEqn) -> float:
    """Operations of one equation that `products` gives."""
    parameters = equation.params
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape: Any = equation.invars[0].aval
        depth = math.prod(shape.shape[axis] for axis in contracted)
        return 2.0 * _size(equation.outvars[0]) * depth
    kernel: Any = equation.invars[1].aval
    outputs = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
    return 2.0 * _size(equation.outvars[0]) * math.prod(kernel.shape) / outputs


def utilization(rate: float) -> dict[str, float]:
    """Operations per second of each device, as metrics.

    Args:
        rate: Operations per second over all devices.

    Returns:
        `teraflops_per_device` and, on devices whose bfloat16 peak is known, the share of it that
        is used, `flop_utilization`.
    """
    each = rate / jax.device_count()
    found = {"teraflops_per_device": each / 1e12}
    kind = jax.devices()[0].device_kind
    peak = next((peak for name, peak in _PEAKS.items() if name in kind), None)
    return found if peak is None else {**found, "flop_utilization": each / peak}


def _total(counted: Iterable[tuple[core.JaxprEqn, int]]) -> float:
    return float(sum(times * equation_operations(equation) for equation, times in counted))


def _products(jaxpr: core.Jaxpr) -> Iterator[tuple[core.JaxprEqn, int]]:
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name in ("dot_general", "conv_general_dilated"):
            yield equation, 1
        elif name == "cond":
            branches = [list(_products(inner)) for inner in _inner(parameters)]
            yield from max(branches, key=_total, default=[])
        else:
            length = parameters.get("length", 1)
            for inner in _inner(parameters):
                for found, times in _products(inner):
                    yield found, times * length


def _inner(parameters: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in parameters.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)
