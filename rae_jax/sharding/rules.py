"""Which axis of which parameter is cut over which mesh axis, by the parameter's path.

Models carry no sharding marks of their own. One table serves the parameters, their moving average
and the optimiser's moments alike, because the paths of all three end in the parameter's own.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

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


def rule_for(name: str, rules: Rules = RULES) -> PartitionSpec:
    """How the last axes of the array called `name` are cut where they divide."""
    return next((spec for pattern, spec in rules if re.search(pattern, name)), PartitionSpec())


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

    spec = rule_for(name, rules)
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
    tree: PyTree, mesh: Mesh | AbstractMesh, *, rules: Rules = RULES, min_size: int = MIN_SIZE
) -> PyTree:
    """Sharding of every leaf of `tree`, by `spec_for`.

    Args:
        tree: Arrays, or their shapes as from `jax.eval_shape`: a train state or a part of one.
        mesh: From `make_mesh`, or one without devices.
        rules: Table of patterns.
        min_size: Arrays of fewer elements are replicated.

    Returns:
        The same tree with `NamedSharding` leaves, for `jax.jit(..., out_shardings=...)`.
    """

    def sharding(path: Sequence[object], leaf: Any) -> NamedSharding:
        spec = spec_for(path_name(path), leaf.shape, mesh.shape, rules=rules, min_size=min_size)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, tree)


LARGEST_UNCUT: Mapping[str, float] = {"fsdp": 0.05, "tensor": 0.25}
"""Share of the bytes that a mesh axis is there to cut which it may leave uncut."""


def require_cut(tree: PyTree, axis_sizes: Mapping[str, int]) -> None:
    """Refuses a mesh of which an axis would do little, as its size divides few widths.

    Arrays that are small are not counted, because no mesh cuts them.

    Args:
        tree: Arrays or their shapes, such as those of a train state.
        axis_sizes: Mesh axis -> number of devices along it.

    Raises:
        ValueError: An axis leaves uncut more than `LARGEST_UNCUT`; the message tells sizes for as
            many devices that do not.
    """
    wrong = _little_cut(tree, axis_sizes)
    if wrong is None:
        return
    mesh_axis, share, names = wrong
    size = axis_sizes[mesh_axis]
    more = f" and of {len(names) - 1} more" if len(names) > 1 else ""
    advice = " ".join(f"mesh.{axis}={size}" for axis, size in _fitting(tree, axis_sizes).items())
    raise ValueError(
        f"mesh.{mesh_axis} must divide the widths of the model; {size} divides none that it could "
        f"cut of {names[0]}{more}, so {share:.0%} of what it is to cut would be whole on every "
        f"device; set {advice} or mesh.{mesh_axis} to a smaller divisor"
    )


def _fitting(tree: PyTree, axis_sizes: Mapping[str, int]) -> Mapping[str, int]:
    """Sizes for as many devices that cut enough; what an axis gives up, `data` takes."""
    while (wrong := _little_cut(tree, axis_sizes)) is not None:
        mesh_axis, size = wrong[0], axis_sizes[wrong[0]]
        smaller = next(n for n in range(size - 1, 0, -1) if size % n == 0)
        data = axis_sizes.get("data", 1) * (size // smaller)
        axis_sizes = {**axis_sizes, "data": data, mesh_axis: smaller}
    return axis_sizes


def _little_cut(tree: PyTree, axis_sizes: Mapping[str, int]) -> tuple[str, float, list[str]] | None:
    """The first axis that leaves too much uncut, which share, and the names of it by size."""
    leaves = [
        (path_name(path), tuple(leaf.shape), leaf.size * leaf.dtype.itemsize)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if leaf.size >= MIN_SIZE
    ]
    for mesh_axis, limit in LARGEST_UNCUT.items():
        if axis_sizes.get(mesh_axis, 1) == 1:
            continue
        meant = [leaf for leaf in leaves if mesh_axis == "fsdp" or mesh_axis in rule_for(leaf[0])]
        uncut = [leaf for leaf in meant if mesh_axis not in spec_for(leaf[0], leaf[1], axis_sizes)]
        total = sum(size for *_, size in meant)
        share = sum(size for *_, size in uncut) / max(total, 1)
        if share > limit:
            uncut.sort(key=lambda leaf: -leaf[2])
            return mesh_axis, share, [f"{name} {list(shape)}" for name, shape, _ in uncut]
    return None
