"""Where numbers and pictures of a run go: a JSON-lines file, TensorBoard, Weights & Biases."""

import json
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rae_jax.files import (
    AnyPath,
    absolute,
    any_path,
    is_remote,
    open_to_append,
    replacing,
)
from rae_jax.monitoring.image_grids import save_png
from rae_jax.sharding.processes import is_main_process
from rae_jax.typing import UInt8

METRICS_FILE = "metrics.jsonl"
_BUCKET_SECONDS = 120.0


@runtime_checkable
class Writer(Protocol):
    """Takes numbers and pictures of a run, step by step."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Notes named numbers of one step."""
        ...

    def images(self, step: int, name: str, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Notes one picture of a step."""
        ...

    def close(self) -> None:
        """Writes what is still held back."""
        ...


class JsonLinesWriter:
    """One line `{"step": ..., name: value, ...}` per call in `metrics.jsonl`; pictures as PNG.

    A resumed run repeats the steps after its checkpoint, so their lines are dropped on opening.
    Values that JSON has no number for become the strings "nan", "inf" and "-inf". A job that is
    killed loses no line, but in a bucket those of its last ten seconds, see `open_to_append`.
    """

    def __init__(self, folder: str | AnyPath, resume_step: int = 0):
        self.folder = any_path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / METRICS_FILE
        if path.exists():
            _keep_until(path, resume_step)
        self._file = open_to_append(path)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line."""
        numbers = {name: float(value) for name, value in values.items()}
        line = {name: v if math.isfinite(v) else str(v) for name, v in numbers.items()}
        self._file.write(json.dumps({"step": step, **line}) + "\n")
        self._file.flush()

    def images(self, step: int, name: str, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Writes `images/NAME_STEP.png`."""
        save_png(self.folder / "images" / f"{name}_{step:08d}.png", image)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardWriter:
    """Event files for TensorBoard; steps after `resume_step` that are already there are purged.

    They are written at once, or in a bucket, where that writes the whole file anew, at most every
    two minutes and in the end. `SummaryWriter` would hand them to a thread of its own, which ends
    if a disk is full, and then waits for it forever.
    """

    def __init__(self, folder: str | AnyPath, resume_step: int = 0):
        # Imported here: it takes a second, and runs without TensorBoard need not pay it.
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter, directory_check
        from tensorboardX.proto import event_pb2

        directory_check(str(folder))
        # Two starts may fall into the second that names a file.
        self._file = EventsWriter(f"{folder}/events", f".{resume_step}")
        messages: Any = event_pb2  # Its names are made when it is imported.
        self._event, self._summary = messages.Event, summary
        self._pause, self._flushed = (_BUCKET_SECONDS if is_remote(folder) else 0.0), -math.inf
        # Events of an interrupted run may carry steps that are about to be repeated.
        start = messages.SessionLog(status=messages.SessionLog.START)
        self._add(resume_step + 1, file_version="brain.Event:2")
        self._add(resume_step + 1, session_log=start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one event per number."""
        for name, value in values.items():
            self._add(step, summary=self._summary.scalar(name, float(value)))
        self._flush()

    def images(self, step: int, name: str, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Adds one event with the picture."""
        self._add(step, summary=self._summary.image(name, image, dataformats="HWC"))
        self._flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _flush(self) -> None:
        if time.monotonic() - self._flushed >= self._pause:
            self._file.flush()
            self._flushed = time.monotonic()

    def _add(self, step: int, **content: Any) -> None:
        self._file.write_event(self._event(step=step, wall_time=time.time(), **content))


class WandbWriter:
    """Weights & Biases; `WANDB_MODE`, `WANDB_PROJECT` and the like are read from the environment.

    The run's id is kept in `folder/wandb_id`, so that a resumed run goes on in the same curves. For
    a folder in a bucket its other files lie where `WANDB_DIR` says.
    """

    def __init__(self, folder: str | AnyPath):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError(
                "the writer 'wandb' needs a package that is missing; run `pip install wandb`, or "
                "leave it out of the writers"
            ) from error
        folder = absolute(folder)
        folder.mkdir(parents=True, exist_ok=True)
        id_file = folder / "wandb_id"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4))
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rae_jax"),
            name=folder.parent.name,
            id=id_file.read_text(),
            resume="allow",
            dir=None if is_remote(folder) else str(folder),
        )
        # A resumed run repeats steps; W&B's own counter only ever goes up.
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the numbers together."""
        numbers = {name: float(value) for name, value in values.items()}
        self._run.log({"step": step, **numbers})

    def images(self, step: int, name: str, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Logs the picture."""
        self._run.log({"step": step, name: self._wandb.Image(image)})

    def close(self) -> None:
        """Ends the W&B run."""
        self._run.finish()


def make_writers(names: Sequence[str], folder: str | AnyPath, resume_step: int = 0) -> list[Writer]:
    """Writers by name; an empty list in every process but the main one.

    Args:
        names: Any of "jsonl", "tensorboard", "wandb".
        folder: Folder of the run: `metrics.jsonl` and `images/` lie in it, event files in
            `tensorboard/`, W&B's in `wandb/`.
        resume_step: Steps finished before this start.

    Raises:
        ValueError: An unknown name, or a package that is not installed.
    """
    folder = any_path(folder)
    known: dict[str, Callable[[], Any]] = {
        "jsonl": lambda: JsonLinesWriter(folder, resume_step),
        "tensorboard": lambda: TensorBoardWriter(folder / "tensorboard", resume_step),
        "wandb": lambda: WandbWriter(folder / "wandb"),
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"writers must be among {sorted(known)}, got {unknown}")
    return [known[name]() for name in names] if is_main_process() else []


def _keep_until(path: AnyPath, last_step: int) -> None:
    """Drops the lines of later steps, and a last line that was cut off in writing."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if _is_whole_until(line, last_step)]
    if len(kept) < len(lines):
        with replacing(path) as partial:
            partial.write_text("".join(kept), encoding="utf-8")


def _is_whole_until(line: str, last_step: int) -> bool:
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= last_step
    except json.JSONDecodeError:
        return False
