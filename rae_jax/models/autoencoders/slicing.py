"""Batches in slices, one after another, which bounds the memory of what happens in between."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rae_jax.typing import Array


def require_slice_size(size: int | None) -> None:
    """Rejects a slice of no images; None takes the whole batch."""
    if size is not None and size < 1:
        raise ValueError(f"slice_size must be at least 1, got {size}")


def in_slices(function: Callable[[Array], Array], values: Array, size: int | None) -> Array:
    """`function` of a batch, `size` of its rows at a time in one compiled function.

    Args:
        function: Maps [b, ...] to [b, ...] row by row.
        values: [B, ...].
        size: Rows at a time; None takes the whole batch.
    """
    count = values.shape[0]
    if size is None or count <= size:
        return function(values)
    whole = count // size * size
    # Rows far apart share a slice, so that a batch cut over devices stays cut in each.
    slices = values[:whole].reshape(size, -1, *values.shape[1:]).swapaxes(0, 1)
    results = jax.lax.map(function, slices).swapaxes(0, 1)
    results = results.reshape(whole, *results.shape[2:])
    if whole == count:
        return results
    return jnp.concatenate([results, function(values[whole:])])
