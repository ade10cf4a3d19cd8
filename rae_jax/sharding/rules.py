"""Which axis of which parameter is cut over which mesh axis, by the parameter's path.

Models carry no sharding marks of their own. One table serves the parameters, their moving average
and the optimiser's moments alike, because the paths of all three end in the parameter's own.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rae_jax.typing import PyTree

Rules = Sequence[tuple[str, PartitionSpec]]

RULES: Rules = (
    # Layers that widen are cut across their outputs and the ones that narrow again across their
    # inputs, so that a pair of them needs one exchange.
    (r"\b(qkv|query|key|value|up|gate|gate_up)\.kernel$", PartitionSpec("fsdp", "tensor")),
    (r"\b(out|down)\.kernel$", PartitionSpec("tensor", "fsdp")),
)
"""Pattern of the dotted path -> how the *last* axes are cut; layer axes before them stay whole."""

MIN_SIZE = 2**14
"""Elements below which cutting an array costs more in small messages than it saves in memory."""


def path_name(path: Sequence[object]) -> str:
    """Dotted name of a jax key path: "optimizer_state.0.mu.blocks.mlp.up.kernel"."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator=".")


def spec_for(
    name: str,
    shape: tuple[int, ...],
    axis_sizes: Mapping[str, int],
    *,
    rules: Rules = RULES,
    min_size: int = MIN_SIZE,
) -> PartitionSpec:
    """How the array called `name` is cut.

    The first rule whose pattern is found decides. Mesh axes that do not divide their array axis
    are left out. If `fsdp` is still free afterwards, it cuts the largest array axis that is free
    and divisible. What is left is replicated.

    Args:
        name: Dotted path.
        shape: Shape of the whole array.
        axis_sizes: Mesh axis -> number of devices along it.
        rules: Table of patterns.
        min_size: Arrays of fewer elements are replicated.
    """
    cuts: list[str | None] = [None] * len(shape)
    if math.prod(shape) < min_size:
        return PartitionSpec()

    def cut(axis: int, mesh_axis: str) -> None:
        size = axis_sizes.get(mesh_axis, 1)
        if size > 1 and shape[axis] % size == 0 and cuts[axis] is None and mesh_axis not in cuts:
            cuts[axis] = mesh_axis

    spec = next((spec for pattern, spec in rules if re.search(pattern, name)), PartitionSpec())
    if len(spec) <= len(shape):
        for axis, mesh_axis in enumerate(spec, start=len(shape) - len(spec)):
            if mesh_axis is not None:
                cut(axis, mesh_axis)
    # Stable sort: among equals the last axis wins, so that a layer axis comes last of all.
    for axis in sorted(reversed(range(len(shape))), key=lambda axis: -shape[axis]):
        cut(axis, "fsdp")
    while cuts and cuts[-1] is None:
        cuts.pop()
    return PartitionSpec(*cuts)


def leaf_sharding(name: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Sharding of the one array called `name`, by `spec_for`."""
    return NamedSharding(mesh, spec_for(name, shape, mesh.shape))


def tree_shardings(
    tree: PyTree, mesh: Mesh, *, rules: Rules = RULES, min_size: int = MIN_SIZE
) -> PyTree:
    """Sharding of every leaf of `tree`, by `spec_for`.

    Args:
        tree: Arrays, or their shapes as from `jax.eval_shape`: a train state or a part of one.
        mesh: From `make_mesh`.
        rules: Table of patterns.
        min_size: Arrays of fewer elements are replicated.

    Returns:
        The same tree with `NamedSharding` leaves, for `jax.jit(..., out_shardings=...)`.
    """

    def sharding(path: Sequence[object], leaf: Any) -> NamedSharding:
        spec = spec_for(path_name(path), leaf.shape, mesh.shape, rules=rules, min_size=min_size)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, tree)
