"""Floating-point operations of a program, and their rate against what the devices can do."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

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


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of two arrays, whatever the order of their axes in the program.

    Attributes:
        shapes: Of both: [m, k] and [k, n], with a batch before if there is one; or those that a
            convolution takes.
        dtype: Of both.
        output: Dtype of the result.
        operations: Two per multiply-add.
        convolution: Parameters of a convolution by name; () for matrices.
    """

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: str
    output: str
    operations: float
    convolution: tuple[tuple[str, Any], ...] = ()


def count_operations(
    function: Callable[..., Any], *arguments: Any, platform: str | None = None
) -> float:
    """Operations of the matrix products and convolutions in `function`, two per multiply-add.

    XLA's own count takes the body of a loop once, however often it runs. Here a scan counts its
    length times and of two branches the more expensive one is taken; only loops of unknown length
    count once. What no result needs does not count.

    Args:
        function: Is traced and not run.
        *arguments: Arrays or their shapes.
        platform: What it is for, where that makes a difference; None for where it would run here.
    """
    return _total(products(function, *arguments, platform=platform))


def products(
    function: Callable[..., Any], *arguments: Any, platform: str | None = None
) -> Counter[Product]:
    """What `count_operations` counts, and how often each of them runs."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _products(needed, platform or jax.default_backend())


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


def _total(counted: Counter[Product]) -> float:
    return float(sum(times * product.operations for product, times in counted.items()))


def _products(jaxpr: core.Jaxpr, platform: str) -> Counter[Product]:
    found: Counter[Product] = Counter()
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name in _KINDS:
            found.update(_KINDS[name](equation))
            continue
        inner = [_products(body, platform) for body in _inner(parameters)]
        if name == "cond":
            inner = [_taken(inner, parameters.get("branches_platforms"), platform)]
        for counted in inner:
            for product, times in counted.items():
                found[product] += times * _repeats(equation)
    return found


def _repeats(equation: core.JaxprEqn) -> int:
    """How often the program within an equation runs, over all devices."""
    name, parameters = equation.primitive.name, equation.params
    if name == "pallas_call":
        return math.prod(parameters["grid_mapping"].grid)
    if name == "shard_map":
        return parameters["mesh"].size
    return parameters.get("length", 1)


def _taken(
    branches: list[Counter[Product]], platforms: tuple[Any, ...] | None, platform: str
) -> Counter[Product]:
    """The branch that is for the platform if they are for such, else the most expensive one."""
    if platforms is None:
        return max(branches, key=_total)
    named = zip(branches, platforms, strict=True)
    return next(found for found, names in named if names is None or platform in names)


def _dot_general(equation: core.JaxprEqn) -> list[Product]:
    first, second = (_aval(variable) for variable in equation.invars)
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    lead, depth = (math.prod(first.shape[axis] for axis in axes) for axes in (batch, contracted))
    rows, columns = (math.prod(x.shape) // max(lead * depth, 1) for x in (first, second))
    return [_matrices((lead, rows, depth, columns), first, _aval(equation.outvars[0]))]


def _matrices(sizes: tuple[int, int, int, int], operand: Any, result: Any) -> Product:
    lead, rows, depth, columns = sizes
    before = (lead,) if lead > 1 else ()
    return Product(
        ((*before, rows, depth), (*before, depth, columns)),
        operand.dtype.name,
        result.dtype.name,
        2.0 * math.prod(sizes),
    )


def _convolution(equation: core.JaxprEqn) -> list[Product]:
    images, kernel = (_aval(variable) for variable in equation.invars)
    result, parameters = _aval(equation.outvars[0]), equation.params
    outputs = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
    return [
        Product(
            (images.shape, kernel.shape),
            images.dtype.name,
            result.dtype.name,
            2.0 * math.prod(result.shape) * math.prod(kernel.shape) / outputs,
            tuple(sorted(parameters.items())),
        )
    ]


def _fused_attention(equation: core.JaxprEqn) -> list[Product]:
    """The products inside cuDNN's attention: two forward, five backward."""
    query, key = (_aval(variable) for variable in equation.invars[:2])
    first, second = (1, 2) if _layout(equation) == "BTNH" else (2, 1)
    lead, width = query.shape[0] * query.shape[second], query.shape[3]
    rows, columns = query.shape[first], key.shape[first]
    logits = _matrices((lead, rows, width, columns), query, query)
    mixed = _matrices((lead, rows, columns, width), query, query)
    if "bwd" in equation.primitive.name:
        # The logits again, and two gradients of either product.
        return [logits, logits, logits, mixed, mixed]
    return [logits, mixed]


def _layout(equation: core.JaxprEqn) -> str:
    layout = equation.params["layout"]
    return getattr(layout, "name", "BTNH" if layout == 0 else "BNTH")


_KINDS: dict[str, Callable[[core.JaxprEqn], list[Product]]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "dot_product_attention_fwd_wrapper": _fused_attention,
    "dot_product_attention_bwd_wrapper": _fused_attention,
}


def _aval(variable: Any) -> Any:
    return variable.aval


def _inner(parameters: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in parameters.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
