"""A train state as named entries of plain arrays, the form in which it is stored."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from rae_jax.typing import PyTree

State = TypeVar("State")


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def entries(state: Any) -> dict[str, PyTree]:
    """Top-level entries of a dictionary or of a `flax.struct.dataclass`.

    Raises:
        TypeError: `state` is neither.
    """
    if isinstance(state, Mapping):
        return dict(state)
    if dataclasses.is_dataclass(state):
        return {
            field.name: getattr(state, field.name)
            for field in dataclasses.fields(state)
            if field.metadata.get("pytree_node", True)
        }
    raise TypeError(
        f"a state must be a dictionary or a flax.struct.dataclass, got {type(state).__name__}"
    )


def with_entries(state: State, values: Mapping[str, PyTree]) -> State:
    """`state` with its top-level entries replaced."""
    if isinstance(state, Mapping):
        return dict(values)  # pyright: ignore[reportReturnType]
    return dataclasses.replace(state, **values)  # pyright: ignore[reportArgumentType]


def to_plain(tree: PyTree) -> PyTree:
    """Random keys as their uint32 words, other arrays as they are."""
    return jax.tree.map(
        lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else jnp.asarray(leaf), tree
    )


def abstract_plain(tree: PyTree) -> PyTree:
    """Shapes, types and shardings of `to_plain(tree)`; `tree` may hold arrays or shapes."""
    # Without a sharding, the one on disk would be asked for, whose devices may not exist here.
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(device, jax.Device):
        device = jax.local_devices()[0]
    default = jax.sharding.SingleDeviceSharding(device)

    def leaf_shape(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(leaf, "sharding", None) or default
        if not _is_key(leaf):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        words = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        return jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=sharding)

    return jax.tree.map(leaf_shape, tree)


def from_plain(plain: PyTree, like: PyTree) -> PyTree:
    """Inverse of `to_plain`; `like` tells which leaves are random keys and of what kind."""

    def leaf(plain_leaf: Any, like_leaf: Any) -> Any:
        if not _is_key(like_leaf):
            return plain_leaf
        impl = jax.random.key_impl(jnp.empty((), like_leaf.dtype))
        return jax.random.wrap_key_data(plain_leaf, impl=impl)

    return jax.tree.map(leaf, plain, like)
