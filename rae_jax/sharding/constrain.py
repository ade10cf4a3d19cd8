"""Keeps activations where the batch is."""

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from rae_jax.sharding.mesh import BATCH_AXES
from rae_jax.typing import Array, Shaped


def constrain_batch(x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """`x` cut over the batch axes of the mesh that `jax.set_mesh` has set.

    Without a mesh, where the batch does not divide over it, and inside `jax.shard_map`, where each
    device has its own part already, `x` comes back as it is; so one and the same model runs on one
    device and on many.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if axis in set(mesh.axis_names) - {*mesh.manual_axes})
    if not axes or x.shape[0] % math.prod(mesh.shape[axis] for axis in axes):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))


def on_own_heads(
    function: Callable[..., Array], batch: int, heads: int
) -> Callable[..., Array] | None:
    """`function` of arrays [batch, N, heads, D], by every device on its own rows and heads.

    It is for kernels, which XLA cannot cut. Without a mesh, and inside `jax.shard_map`, `function`
    comes back as it is; None says that batch or heads do not divide over the mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or mesh.manual_axes:
        return function
    rows, columns = math.prod(mesh.shape[axis] for axis in BATCH_AXES), mesh.shape["tensor"]
    if batch % rows or heads % columns:
        return None
    spec = PartitionSpec(BATCH_AXES, None, "tensor")
    return jax.shard_map(function, in_specs=spec, out_specs=spec, check_vma=False)
