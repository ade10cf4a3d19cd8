"""A batch worked off in parts, one after the other, to save memory."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from rae_jax.typing import Array, PyTree

T = TypeVar("T")


def parts(batch: PyTree, count: int) -> PyTree:
    """Cuts the leaves [B, ...] of a batch into parts: [count, B / count, ...].

    Part p holds the rows p, p + count, ...: with contiguous rows, all of a part would lie on a few
    of the devices that a batch is cut over, and would have to be moved.
    """
    return jax.tree.map(lambda leaf: leaf.reshape(-1, count, *leaf.shape[1:]).swapaxes(0, 1), batch)


def mean_of_parts(function: Callable[[PyTree, Array], T], batch: PyTree, count: int) -> T:
    """Mean over the parts of a batch of `function(part, index of its rows)`.

    Args:
        function: Gives a tree of arrays, means over the rows it gets; for gradients and losses
            the result is then that of the whole batch.
        batch: Tree of arrays [B, ...]; B is a multiple of `count`.
        count: Number of parts; 1 calls `function` once, on everything.
    """
    index = jnp.arange(len(jax.tree.leaves(batch)[0]))
    if count == 1:
        return function(batch, index)
    cut, rows = parts(batch, count), parts(index, count)
    first = jax.tree.map(lambda leaf: leaf[0], (cut, rows))
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *first)
    )

    def add(total: T, part: tuple[PyTree, Array]) -> tuple[T, None]:
        return jax.tree.map(jnp.add, total, function(*part)), None

    total, _ = jax.lax.scan(add, zeros, (cut, rows))
    return jax.tree.map(lambda leaf: leaf / count, total)


def map_parts(function: Callable[[PyTree], T], batch: PyTree, count: int) -> T:
    """`function(batch)`, row by row the same, computed part by part."""
    if count == 1:
        return function(batch)
    done = jax.lax.map(function, parts(batch, count))
    return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:]), done)
