"""Reads some entries of a checkpoint, such as the moving average, without the optimiser's."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from rae_jax.checkpointing.entries import abstract_plain, from_plain
from rae_jax.checkpointing.record import (
    STATE,
    CheckpointMismatch,
    Record,
    attempt,
    buffered,
    existing,
    read_record,
)
from rae_jax.files import AnyPath, any_path
from rae_jax.typing import PyTree


def restore_entries(
    directory: str | AnyPath,
    abstract: Mapping[str, PyTree],
    step: int | None = None,
    *,
    buffer_gb: int | None = None,
) -> tuple[int, dict[str, PyTree]]:
    """Restores the top-level entries named in `abstract` and nothing else.

    Args:
        directory: Folder of a `CheckpointManager`.
        abstract: Entry -> tree of shapes or arrays, e.g. `{"ema": ..., "buffers": ...}`; shardings
            as in `CheckpointManager.restore_latest`.
        step: Which checkpoint; unless given, the newest that is whole, those passed over being
            told in a warning.
        buffer_gb: Read at most so many gigabytes at a time; see `CheckpointManager`.

    Returns:
        The step and the restored entries.

    Raises:
        FileNotFoundError: No such folder or step.
        CheckpointMismatch: The entries are those of another model.
        ValueError: The checkpoint is damaged: it cannot be read, or a fingerprint differs.
    """
    with _open(directory, buffer_gb) as manager:
        newest = _chosen(manager, directory, step)
        steps = [newest]
        if step is None:
            steps += sorted((s for s in manager.all_steps() if s < newest), reverse=True)
        problems = []
        for candidate in steps:
            try:
                return candidate, _restore(manager, directory, candidate, abstract)
            except CheckpointMismatch:
                raise
            except ValueError as error:
                problems.append(str(error))
                if candidate != steps[-1]:
                    logging.warning("%s; going back to an older checkpoint", error)
    raise ValueError("; ".join(problems))


def _restore(
    manager: ocp.CheckpointManager,
    directory: str | AnyPath,
    step: int,
    abstract: Mapping[str, PyTree],
) -> dict[str, PyTree]:
    where = f"checkpoint {any_path(directory) / str(step)}"
    record = _readable_record(manager, step, where)
    unknown = sorted(abstract.keys() - record.leaves.keys())
    if unknown:
        raise CheckpointMismatch(
            f"{where} has no entry {', '.join(unknown)}; it has {', '.join(record.leaves)}"
        )
    shapes = {name: abstract_plain(tree) for name, tree in abstract.items()}
    record.require_like(shapes, where)
    arguments = ocp.args.PyTreeRestore(
        item=shapes,
        partial_restore=True,
        restore_args=ocp.checkpoint_utils.construct_restore_args(shapes),
    )
    items = ocp.args.Composite(**{STATE: arguments})
    plain, problem = attempt(lambda: manager.restore(step, args=items)[STATE])
    if plain is None:
        raise ValueError(f"{where} cannot be read, {problem}")
    altered = record.altered(plain)
    if altered:
        raise ValueError(
            f"{where} is damaged: the fingerprint of {', '.join(altered)} is not the one that "
            "was saved"
        )
    return {name: from_plain(plain[name], abstract[name]) for name in abstract}


def read_metadata(directory: str | AnyPath, step: int | None = None) -> dict[str, Any]:
    """The metadata saved with a checkpoint, the newest unless `step` is given.

    Raises:
        FileNotFoundError: No such folder or step.
        ValueError: The checkpoint is damaged.
    """
    with _open(directory) as manager:
        step = _chosen(manager, directory, step)
        where = f"checkpoint {any_path(directory) / str(step)}"
        return _readable_record(manager, step, where).metadata


def read_leaves(directory: str | AnyPath, step: int | None = None) -> dict[str, dict[str, str]]:
    """Type and shape ("float32[28,1152]") of every leaf, by top-level entry and dotted path.

    Raises:
        FileNotFoundError: No such folder or step.
        ValueError: The checkpoint is damaged.
    """
    with _open(directory) as manager:
        step = _chosen(manager, directory, step)
        where = f"checkpoint {any_path(directory) / str(step)}"
        return _readable_record(manager, step, where).leaves


def read_arrays(directory: str | AnyPath, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint on the host, by dotted path; fingerprints are not compared.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: The checkpoint is damaged.
    """
    folder = existing(directory) / str(step) / STATE
    with ocp.PyTreeCheckpointer() as checkpointer:

        def read() -> PyTree:
            shapes = checkpointer.metadata(folder).item_metadata.tree
            kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            return checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=kinds))

        tree, problem = attempt(read)
    if tree is None:
        raise ValueError(f"checkpoint {folder.parent} cannot be read, {problem}")
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def latest_step(directory: str | AnyPath) -> int:
    """Step of the newest checkpoint, whole or not.

    Raises:
        FileNotFoundError: No such folder, or no checkpoint in it.
    """
    with _open(directory) as manager:
        return _chosen(manager, directory, None)


def _readable_record(manager: ocp.CheckpointManager, step: int, where: str) -> Record:
    record, problem = attempt(lambda: read_record(manager, step))
    if record is None:
        raise ValueError(f"{where} cannot be read, {problem}")
    return record


def _open(directory: str | AnyPath, buffer_gb: int | None = None) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(read_only=True)
    handlers = buffered(ocp.PyTreeCheckpointHandler, buffer_gb)
    return ocp.CheckpointManager(existing(directory), options=options, item_handlers=handlers)


def _chosen(manager: ocp.CheckpointManager, directory: str | AnyPath, step: int | None) -> int:
    steps = sorted(manager.all_steps())
    if not steps:
        raise FileNotFoundError(
            f"no checkpoint in {directory}; train first, or name another folder"
        )
    if step is None:
        return steps[-1]
    if step not in steps:
        raise FileNotFoundError(f"no checkpoint of step {step} in {directory}; it has {steps}")
    return step
