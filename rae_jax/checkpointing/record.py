"""What stands beside the arrays of a checkpoint: the caller's metadata, fingerprints, shapes."""

import dataclasses
import gc
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import orbax.checkpoint as ocp

from rae_jax.checkpointing.fingerprint import digest, fingerprints, signature
from rae_jax.files import AnyPath, absolute
from rae_jax.typing import PyTree

T = TypeVar("T")

STATE = "state"
RECORD = "metadata"
"""Names of the two items of a checkpoint."""

_FORMAT = 1
_LISTED = 20
_AFTERMATH = 0.3


class CheckpointMismatch(ValueError):
    """A checkpoint is whole, but of another model or of a newer format; the message lists where."""


@dataclasses.dataclass(frozen=True)
class Record:
    """The JSON item of a checkpoint.

    Attributes:
        metadata: What the caller gave to `save`.
        fingerprint: Top-level entry of the state -> fingerprint.
        leaves: Top-level entry -> dotted path -> type and shape.
    """

    metadata: dict[str, Any]
    fingerprint: dict[str, str]
    leaves: dict[str, dict[str, str]]

    @classmethod
    def of(cls, entries: Mapping[str, PyTree], metadata: Mapping[str, Any]) -> "Record":
        """The record to store with `entries`; metadata must consist of JSON values."""
        return cls(
            metadata=json.loads(json.dumps(dict(metadata))),
            fingerprint=fingerprints(entries),
            leaves={name: signature(tree) for name, tree in entries.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """JSON value with a digest of itself."""
        value = {"format": _FORMAT, **dataclasses.asdict(self)}
        return {**value, "digest": digest(value)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> "Record":
        """Inverse of `to_json`; `where` names the checkpoint.

        Raises:
            CheckpointMismatch: A newer version of this package has written it.
            ValueError: The digest does not fit.
        """
        content = {name: part for name, part in value.items() if name != "digest"}
        if digest(content) != value.get("digest"):
            raise ValueError("the metadata file was altered after it was written")
        there = content.pop("format")
        if there > _FORMAT:
            known = {field.name for field in dataclasses.fields(cls)}
            lines = [f"  format: {there} there, up to {_FORMAT} here"]
            lines += [f"  {name}: there, unknown here" for name in sorted(content.keys() - known)]
            lines += [f"  {name}: absent there" for name in sorted(known - content.keys())]
            raise CheckpointMismatch(
                f"{where} was written by a newer version of rae_jax:\n"
                + "\n".join(lines)
                + "\ninstall that version, or use another folder"
            )
        return cls(**content)

    def require_like(
        self, entries: Mapping[str, PyTree], where: str, *, whole: bool = False
    ) -> None:
        """Compares names, types and shapes of `entries` with those stored.

        Args:
            entries: What is wanted.
            where: Names the checkpoint.
            whole: Whether nothing else may be stored.

        Raises:
            CheckpointMismatch: They differ.
        """
        differences = []
        for name in [*entries, *(sorted(self.leaves.keys() - entries.keys()) if whole else ())]:
            wanted, stored = signature(entries.get(name, {})), self.leaves.get(name, {})
            for path in sorted(wanted.keys() | stored.keys()):
                there, here = stored.get(path), wanted.get(path)
                if there != here:
                    leaf = f"{name}.{path}" if path else name
                    differences.append(f"  {leaf}: {there or 'absent'} != {here or 'absent'}")
        if differences:
            more = len(differences) - _LISTED
            shown = differences[:_LISTED] + ([f"  and {more} more"] if more > 0 else [])
            raise CheckpointMismatch(
                f"{where} is of another model (stored != wanted):\n"
                + "\n".join(shown)
                + "\nuse the config it was written with, or another folder"
            )

    def altered(self, entries: Mapping[str, PyTree]) -> list[str]:
        """Names of the entries whose fingerprint is not the stored one."""
        found = fingerprints(entries)
        return [name for name in found if found[name] != self.fingerprint.get(name)]


def buffered(state_handler: Callable[..., Any], buffer_gb: int | None) -> dict[str, Any] | None:
    """Handlers of both items with so many gigabytes under way at most; None for Orbax's own."""
    if buffer_gb is None:
        return None
    state = state_handler(save_concurrent_gb=buffer_gb, restore_concurrent_gb=buffer_gb)
    return {STATE: state, RECORD: ocp.JsonCheckpointHandler()}


def read_record(manager: ocp.CheckpointManager, step: int) -> Record:
    """The record of one step; whatever is wrong with the file comes as an exception."""
    arguments = ocp.args.Composite(**{RECORD: ocp.args.JsonRestore()})
    value = manager.restore(step, args=arguments)[RECORD]
    return Record.from_json(value, f"checkpoint {manager.directory / str(step)}")


def existing(directory: str | AnyPath) -> AnyPath:
    """Absolute path of a checkpoint folder.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    directory = absolute(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"no checkpoint folder {directory}; give the one a run has written")
    return directory


def attempt(read: Callable[[], T]) -> tuple[T | None, str]:
    """Calls `read`; gives its result and "", or None and what went wrong, in one line.

    Damaged files raise all sorts of exceptions, even bare ones. They also leave reads and
    coroutines behind, each of which would print pages when it ends or is collected.

    Raises:
        CheckpointMismatch: What was read is not damaged, but something else.
    """
    problem, hook = "", sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    try:
        return read(), ""
    except CheckpointMismatch:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        problem = f"{type(error).__name__}: {lines[0][:200]}"
    finally:
        if problem:
            gc.collect()
            time.sleep(_AFTERMATH)
        sys.unraisablehook = hook
    return None, problem
