"""Meshes of jobs: what must divide over them, and what lies where."""

import collections
import dataclasses
import math
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from rae_jax.configuration.schema import MeshConfig
from rae_jax.configuration.section import Section
from rae_jax.sharding.mesh import BATCH_AXES, batch_sharding, replicated
from rae_jax.sharding.rules import tree_shardings
from rae_jax.typing import PyTree, Tree


def require_divisible(batch_size: int, mesh: Mesh, accumulation: int = 1) -> None:
    """Checks that a batch can be cut over a mesh.

    Args:
        batch_size: Rows of the whole batch.
        mesh: Devices of all processes.
        accumulation: Parts that a batch is worked off in, each of which is cut.

    Raises:
        ValueError: The rows do not divide, or processes share rows, of which each loads its own.
    """
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    names, unit = "mesh.data x mesh.fsdp", parts
    if accumulation > 1:
        names, unit = f"{names} x gradient_accumulation", parts * accumulation
    if batch_size % unit:
        raise ValueError(
            f"global_batch_size must be a multiple of {names} = {unit}, got {batch_size}; the "
            f"nearest above is {batch_size + unit - batch_size % unit}"
        )
    taken = collections.defaultdict(set)
    for device, (part,) in batch_sharding(mesh).devices_indices_map((parts,)).items():
        taken[device.process_index].add(part.start or 0)
    counts = [len(of_process) for of_process in taken.values()]
    if sum(counts) != parts or len(set(counts)) > 1:
        raise ValueError(
            f"each of the {len(taken)} processes must have rows of the batch to itself, equally "
            f"many, but mesh.tensor={mesh.shape['tensor']} spreads a row over several; lower it "
            "to a divisor of the devices of a process"
        )


def require_heads(config: Section, mesh: Mesh) -> None:
    """Raises ValueError if the mesh would cut attention heads of a model in `config`."""
    tensor = mesh.shape["tensor"]
    for name, count in _heads(config):
        if count % tensor:
            raise ValueError(
                f"mesh.tensor must divide {name} = {count}, got {tensor}; set mesh.tensor="
                f"{math.gcd(count, tensor)}"
            )


def _heads(section: Section, prefix: str = "") -> Iterator[tuple[str, int]]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            yield from _heads(value, f"{prefix}{field.name}.")
        elif field.name.endswith("num_heads"):
            yield f"{prefix}{field.name}", value


def frozen_shardings(frozen: Tree, mesh: Mesh, config: MeshConfig) -> PyTree:
    """Where the arrays lie that a job reads and never changes, such as an encoder's."""
    if config.frozen == "cut":
        return tree_shardings(frozen, mesh)
    return jax.tree.map(lambda leaf: replicated(mesh), frozen)
