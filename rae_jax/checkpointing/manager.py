"""Checkpoints of a whole train state, written while training goes on, verified when read."""

import dataclasses
import pathlib
import types
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

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
        directory: str | pathlib.Path,
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
        self.directory = pathlib.Path(directory).absolute()
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
        self._current: int | None = None
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

    def save(self, step: int, state: Any, metadata: Mapping[str, Any]) -> None:
        """Starts saving; does nothing if this manager's last save or restore was of `step`.

        Args:
            step: Number of finished steps.
            state: Dictionary or dataclass of trees of arrays. May be donated right afterwards.
            metadata: JSON values.

        Raises:
            ValueError: A checkpoint of this or a later step is already there.
        """
        if step == self._current:
            return
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
        if not self._manager.save(step, args=ocp.args.Composite(**items), force=True):
            raise RuntimeError(f"the checkpoint of step {step} in {self.directory} was refused")
        self._current = step

    def restore_latest(self, abstract_state: State) -> Restored[State] | None:
        """The newest checkpoint that is whole, or None if there is none.

        Checkpoints that cannot be read, or whose fingerprint differs, are passed over with a
        warning. They stay where they are until the next `save`, which sets them aside.

        Args:
            abstract_state: State of shapes (`jax.eval_shape`) or arrays. Leaves whose `sharding`
                is set are restored to it, whatever mesh they were saved from; others to the
                first device.

        Raises:
            CheckpointMismatch: The newest readable checkpoint holds the state of another model.
        """
        wanted = entries(abstract_state)
        abstract = {name: abstract_plain(tree) for name, tree in wanted.items()}
        self._skipped = {}
        for step in reversed(self.steps()):
            record, problem = self._read_record(step)
            if record is not None:
                record.require_like(abstract, f"checkpoint {self.directory / str(step)}")
                plain, problem = self._read_state(step, record, abstract)
                if plain is not None:
                    state = {name: from_plain(plain[name], wanted[name]) for name in wanted}
                    self._current = step
                    return Restored(step, with_entries(abstract_state, state), record.metadata)
            self._skipped[step] = problem
            logging.warning("Checkpoint %s is passed over: %s", self.directory / str(step), problem)
        if self._skipped:
            logging.warning("No checkpoint in %s could be restored.", self.directory)
        return None

    def wait(self) -> None:
        """Returns when the last save is on disk; raises what went wrong with it."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and frees the manager's threads."""
        self._manager.close()

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


def _free_name(path: pathlib.Path) -> pathlib.Path:
    count = 0
    while path.exists():
        count += 1
        path = path.with_name(f"{path.name.split('.')[0]}.{count}")
    return path
