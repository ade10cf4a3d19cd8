"""Bytes that trees of arrays take on each device, as their shardings tell."""

import dataclasses
from collections.abc import Mapping

import jax

from rae_jax.sharding.rules import path_name
from rae_jax.typing import PyTree

_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a tree takes.

    Attributes:
        total: Bytes of its arrays, each counted once.
        per_device: Bytes on each device.
        whole: Name -> bytes of the arrays that every device has whole.
    """

    total: int
    per_device: int
    whole: Mapping[str, int]


def memory(tree: PyTree, shardings: PyTree) -> Memory:
    """What a tree takes under its shardings.

    Args:
        tree: Arrays or their shapes.
        shardings: One for each of them.
    """
    total, per_device, whole = 0, 0, {}
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        part = jax.ShapeDtypeStruct(sharding.shard_shape(leaf.shape), leaf.dtype)
        total += leaf.size * leaf.dtype.itemsize
        per_device += part.size * leaf.dtype.itemsize
        if part.size == leaf.size:
            whole[path_name(path)] = leaf.size * leaf.dtype.itemsize
    return Memory(total, per_device, whole)


def report(trees: Mapping[str, tuple[PyTree, PyTree]]) -> str:
    """Memory per device in one line: of every tree, its share of the whole, and what is not cut.

    Args:
        trees: Name -> arrays or their shapes, and a sharding for each of them.
    """
    found = {name: memory(*tree) for name, tree in trees.items()}
    parts = [
        f"{name} {in_bytes(one.per_device)} ({one.per_device / one.total:.1%} of "
        f"{in_bytes(one.total)})"
        for name, one in found.items()
        if one.total
    ]
    together = in_bytes(sum(one.per_device for one in found.values()))
    whole = {f"{name}.{leaf}": n for name, one in found.items() for leaf, n in one.whole.items()}
    largest = sorted(whole, key=lambda name: -whole[name])[:_NAMED]
    named = ", ".join(f"{name} {in_bytes(whole[name])}" for name in largest)
    uncut = f"{in_bytes(sum(whole.values()))} in {len(whole)} arrays"
    return (
        f"memory per device: {', '.join(parts)}; together {together}; whole on every device: "
        f"{uncut}{f', the largest {named}' if named else ''}"
    )


def in_bytes(size: int) -> str:
    """A number of bytes in a unit that suits it, such as "839 MB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} B"
