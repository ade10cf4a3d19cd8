"""Builds and runs modules in tests without paying for random initialisation or eager scans."""

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.functional import abstract, split
from tests.golden import recipe

M = TypeVar("M", bound=nnx.Module)


def filled(make: Callable[[], M]) -> M:
    """The module that `make` builds, with leaves that depend on their paths alone."""
    module = abstract(make)
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        shape = tuple(variable.shape)
        scale = shape[-2] ** -0.5 if len(shape) > 1 else 1.0
        variable.set_value(jnp.asarray(scale * recipe.uniform(".".join(map(str, path)), shape)))
    return module


def example(shape: tuple[int, ...]) -> jax.Array:
    """Some input of zero mean and unit variance."""
    return jnp.asarray(recipe.uniform("example", shape))


def run(module: nnx.Module, *inputs: Any, method: str = "__call__") -> Any:
    """Runs a method as the loops do: the arrays are arguments of one compiled function."""
    definition, weights = split(module)
    compiled = jax.jit(lambda weights, *inputs: getattr(definition.merge(weights), method)(*inputs))
    return compiled(weights, *inputs)


def large_constants(function: Callable[..., Any], *inputs: Any, limit: int) -> list[str]:
    """Arrays of more than `limit` elements that compilation would bake into `function`.

    Constants of one repeated value are not counted: they cost no memory.
    """
    program = jax.jit(function).lower(*inputs).as_text()
    found = re.findall(r'constant dense<[\["].*?> : tensor<((?:\d+x)*)\w+>', program)
    return [shape for shape in found if math.prod(map(int, shape.split("x")[:-1])) > limit]
