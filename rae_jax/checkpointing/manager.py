"""Checkpoints of a whole train state, written while training goes on, verified when read."""

import contextlib
import dataclasses
import errno
import os
import types
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

from rae_jax.checkpointing.entries import (
    abstract_plain,
    entries,
    from_plain,
    to_plain,
    with_entries,
)
from rae_jax.checkpointing.record import (
    RECORD,
    STATE,
    Record,
    attempt,
    buffered,
    read_record,
)
from rae_jax.files import AnyPath, absolute
from rae_jax.sharding.processes import agreed, is_main_process, wait_for_all

State = TypeVar("State")


@dataclasses.dataclass(frozen=True)
class Restored(Generic[State]):
    """A checkpoint read back: its step, the state, and the metadata saved with it."""

    step: int
    state: State
    metadata: dict[str, Any]


class CheckpointManager:
    """Saves and restores train states under `directory/<step>`.

    A state is a dictionary or `flax.struct.dataclass` whose top-level entries are trees of arrays.
    Saving returns as soon as the arrays are copied; the files are complete or not there at all.
    Every entry's fingerprint is stored and compared on reading.
    """

    def __init__(
        self,
        directory: str | AnyPath,
        *,
        keep_last: int = 2,
        keep_every: int | None = None,
        buffer_gb: int | None = None,
    ):
        """Opens `directory`, making it if need be, and removes what unfinished saves have left.

        Args:
            directory: Folder of the checkpoints, the same for every process.
            keep_last: How many of the newest to keep; two or more survive damage to the newest.
            keep_every: Keep every checkpoint whose step is a multiple of this, forever.
            buffer_gb: Write at most so many gigabytes at a time; each takes memory until it is on
                disk. Unless given, whole states are on the way, which is quickest.
        """
        if keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, got {keep_last}")
        if keep_every is not None and keep_every < 1:
            raise ValueError(f"keep_every must be at least 1, got {keep_every}")
        self.directory = absolute(directory)
        kept: list[preservation.PreservationPolicy] = [preservation.LatestN(keep_last)]
        if keep_every is not None:
            kept.append(preservation.EveryNSteps(keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )
        handlers = buffered(ocp.StandardCheckpointHandler, buffer_gb)
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_handlers=handlers
        )
        self._keep_every = keep_every
        self._current: int | None = None
        self._pending: int | None = None
        self._skipped: dict[int, str] = {}

    def __enter__(self) -> "CheckpointManager":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    def steps(self) -> list[int]:
        """Steps of the checkpoints in the folder, oldest first."""
        return sorted(self._manager.all_steps())

    def keeps(self, step: int) -> bool:
        """Whether a checkpoint of this step stays forever."""
        return self._keep_every is not None and step % self._keep_every == 0

    def save(self, step: int, state: Any, metadata: Mapping[str, Any]) -> None:
        """Starts saving; does nothing if this manager's last save or restore was of `step`.

        Args:
            step: Number of finished steps.
            state: Dictionary or dataclass of trees of arrays. May be donated right afterwards.
            metadata: JSON values.

        Raises:
            OSError: This save, or the one before, cannot be written.
            ValueError: A checkpoint of this or a later step is already there.
        """
        if step == self._current:
            return
        self.wait()
        self._set_aside_skipped()
        present = self.steps()
        if present and present[-1] >= step:
            raise ValueError(
                f"cannot save step {step} in {self.directory}: it already holds step "
                f"{present[-1]}; go on from that one, or use another folder"
            )
        plain = {name: to_plain(tree) for name, tree in entries(state).items()}
        items = {
            STATE: ocp.args.StandardSave(plain),
            RECORD: ocp.args.JsonSave(Record.of(plain, metadata).to_json()),
        }
        with self._written(step):
            if not self._manager.save(step, args=ocp.args.Composite(**items), force=True):
                raise RuntimeError("it was refused")
        self._current, self._pending = step, step

    def restore_latest(
        self, abstract_state: State, defaults: Mapping[str, Any] | None = None
    ) -> Restored[State] | None:
        """The newest checkpoint that is whole, or None if the folder holds none at all.

        Checkpoints that cannot be read, or whose fingerprint differs, are passed over with a
        warning. They stay where they are until the next `save`, which sets them aside.

        Args:
            abstract_state: State of shapes (`jax.eval_shape`) or arrays. Leaves whose `sharding`
                is set are restored to it, whatever mesh they were saved from; others to the
                first device.
            defaults: Numbers for entries of one array that a checkpoint may lack, because they
                came later, and then could have had no other value.

        Raises:
            CheckpointMismatch: The newest readable checkpoint holds the state of another model,
                or was written by a newer version.
            ValueError: There are checkpoints, and every one of them is damaged.
        """
        wanted = entries(abstract_state)
        abstract = {name: abstract_plain(tree) for name, tree in wanted.items()}
        self._skipped = {}
        for step in reversed(self.steps()):
            record, problem = self._read_record(step)
            if record is not None:
                later = {
                    name: value
                    for name, value in (defaults or {}).items()
                    if name in abstract and name not in record.leaves
                }
                stored = {name: tree for name, tree in abstract.items() if name not in later}
                record.require_like(stored, f"checkpoint {self.directory / str(step)}", whole=True)
                plain, problem = self._read_state(step, record, stored)
                if plain is not None:
                    for name, value in later.items():
                        logging.info("Checkpoint %d is older than %r: %s", step, name, value)
                        plain[name] = _filled(abstract[name], value)
                    state = {name: from_plain(plain[name], wanted[name]) for name in wanted}
                    self._current = step
                    return Restored(step, with_entries(abstract_state, state), record.metadata)
            self._skipped[step] = problem
            logging.warning("Checkpoint %s is passed over: %s", self.directory / str(step), problem)
        if self._skipped:
            # To begin anew would cost all that was done, maybe because a disk was away.
            raise ValueError(
                f"no checkpoint in {self.directory} can be restored: "
                + "; ".join(f"{step}: {problem}" for step, problem in self._skipped.items())
                + "; make the files readable, or move them away to begin anew"
            )
        return None

    def check(self) -> None:
        """Raises OSError if the last save has failed by now; does not wait for it."""
        if self._pending is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns when the last save is on disk; raises OSError if it cannot be written."""
        step, self._pending = self._pending, None
        if step is not None:
            with self._written(step):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and frees the manager's threads."""
        self._manager.close()

    @contextlib.contextmanager
    def _written(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Whatever the storage reports, in whatever type, is for the user to put right.
            text = str(error)
            reason = os.strerror(errno.ENOSPC) if "No space left" in text else text[:300]
            whole = [s for s in sorted(self._manager.all_steps(read=True)) if s != step]
            raise OSError(
                f"the checkpoint of step {step} cannot be written to {self.directory}: "
                f"{' '.join(reason.split())}; put that right and start again: "
                + (f"the checkpoints of steps {whole} are whole" if whole else "it was the first")
            ) from error

    def _read_record(self, step: int) -> tuple[Record | None, str]:
        record, problem = attempt(lambda: read_record(self._manager, step))
        if agreed(record is not None):
            return record, ""
        return None, f"its metadata cannot be read, {problem or 'by another process'}"

    def _read_state(
        self, step: int, record: Record, abstract: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, str]:
        arguments = ocp.args.Composite(**{STATE: ocp.args.StandardRestore(abstract)})
        plain, problem = attempt(lambda: self._manager.restore(step, args=arguments)[STATE])
        if not agreed(plain is not None) or plain is None:
            return None, f"its arrays cannot be read, {problem or 'by another process'}"
        altered = record.altered(plain)
        if altered:
            return None, f"the fingerprint of {', '.join(altered)} is not the one that was saved"
        return plain, ""

    def _set_aside_skipped(self) -> None:
        """Renames checkpoints that were passed over, so that they neither block nor count."""
        if not self._skipped:
            return
        wait_for_all("checkpointing.set_aside")
        for step in self._skipped if is_main_process() else ():
            target = _free_name(self.directory / f"damaged-{step}")
            (self.directory / str(step)).rename(target)
            logging.warning("Checkpoint of step %d is set aside as %s", step, target)
        wait_for_all("checkpointing.set_aside.done")
        self._skipped = {}
        self._manager.reload()


def _filled(shape: jax.ShapeDtypeStruct, value: Any) -> jax.Array:
    """An array of one value, in its sharding."""
    fill = np.full(shape.shape, value, shape.dtype)
    return jax.make_array_from_callback(shape.shape, shape.sharding, lambda index: fill[index])


def _free_name(path: AnyPath) -> AnyPath:
    count = 0
    while path.exists():
        count += 1
        path = path.with_name(f"{path.name.split('.')[0]}.{count}")
    return path
