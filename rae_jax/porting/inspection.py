"""What is in a file of weights, a checkpoint or a work folder, as a table."""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from rae_jax.checkpointing.experiment import checkpoint_folder, read_experiment
from rae_jax.checkpointing.partial_restore import (
    latest_step,
    read_arrays,
    read_leaves,
    read_metadata,
)
from rae_jax.configuration.errors import ConfigError
from rae_jax.files import AnyPath, any_path, local_path
from rae_jax.porting import text
from rae_jax.weights import readers
from rae_jax.weights.errors import WeightFileError
from rae_jax.weights.torch_files import read_torch

_SHOWN = 60
"""Characters of a plain value."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry.

    Attributes:
        key: Its name; levels of nesting are joined by dots.
        shape: None for a plain value.
        dtype: Name of the dtype, or the plain value.
        read: Gives the array.
    """

    key: str
    shape: tuple[int, ...] | None
    dtype: str
    read: Callable[[], np.ndarray] | None = None

    @property
    def count(self) -> int:
        """Number of elements."""
        return 0 if self.shape is None else math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the array."""
        return self.count * _dtype(self.dtype).itemsize if self.shape is not None else 0


def inspect(source: str, *, statistics: bool, say: Callable[[str], None]) -> None:
    """Shows the entries of a source, and their totals.

    Args:
        source: A file (.safetensors, .pt, .pth, .bin, .ckpt, .npz, .index.json), a folder with
            one, a checkpoint or a folder of checkpoints, or a work folder.
        statistics: Show least, largest and mean value too, which reads everything.
        say: Gets what is to be told, line by line.

    Raises:
        FileNotFoundError: There is nothing, or nothing known.
        ValueError: A file is damaged.
    """
    if not source:
        raise ConfigError("--source is missing; name a file or folder")
    with contextlib.ExitStack() as stack:
        notes, entries = _open(any_path(source), stack)
        for note in notes:
            say(note)
        headings = ["key", "shape", "dtype", "size"]
        headings += ["min", "max", "mean"] if statistics else []
        rows = [_row(entry, statistics) for entry in entries]
        for line in text.table(headings, rows):
            say(line)
    arrays = [entry for entry in entries if entry.shape is not None]
    count, nbytes = sum(e.count for e in arrays), sum(e.nbytes for e in arrays)
    say(f"{len(arrays)} arrays, {count:,} elements, {text.size(nbytes)}")


def _row(entry: Entry, statistics: bool) -> list[str]:
    if entry.shape is None or entry.read is None:
        return [entry.key, "", entry.dtype, "", *[""] * 3 * statistics]
    row = [entry.key, str(entry.shape), entry.dtype, text.size(entry.nbytes)]
    return row + _moments(entry.read()) if statistics else row


def _moments(array: np.ndarray) -> list[str]:
    if array.size == 0 or np.issubdtype(array.dtype, np.complexfloating):
        return ["", "", ""]
    values = array.astype(np.float64).reshape(-1)
    return [f"{value:.6g}" for value in (values.min(), values.max(), values.mean())]


def _dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def _open(path: AnyPath, stack: contextlib.ExitStack) -> tuple[list[str], list[Entry]]:
    """Lines about the whole, and its entries."""
    if path.is_dir():
        return _open_folder(path, stack)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder at {path}")
    path = local_path(path, "a file to inspect")
    if path.suffix == ".npz":
        return [], _npz_entries(path, stack)
    if path.suffix in readers.TORCH_SUFFIXES:
        return [], list(_nested_entries(read_torch(path)))
    return [], _tensor_entries(readers.read_tensors(path))


def _open_folder(path: AnyPath, stack: contextlib.ExitStack) -> tuple[list[str], list[Entry]]:
    if checkpoint_folder(path).is_dir():
        kind, _ = read_experiment(path)
        notes, entries = _checkpoint(checkpoint_folder(path), None)
        return [f"work folder of a {kind} run", *notes], entries
    # A checkpoint is a folder called by its step, in the folder of all of a run.
    if re.fullmatch(r"\d+", path.name) and (path / "metadata").is_dir():
        return _checkpoint(path.parent, int(path.name))
    if any(re.fullmatch(r"\d+", child.name) for child in path.iterdir() if child.is_dir()):
        return _checkpoint(path, None)
    for stem in ("model", "diffusion_pytorch_model"):
        with contextlib.suppress(FileNotFoundError):
            return [], _tensor_entries(readers.read_tensors(path, stem))
    raise FileNotFoundError(
        f"{path} holds neither weights, nor checkpoints, nor the config.json of a run; name a file "
        "or another folder"
    )


def _tensor_entries(tensors: Mapping[str, np.ndarray]) -> list[Entry]:
    def entry(key: str) -> Entry:
        header = readers.header(tensors, key)
        return Entry(key, header.shape, header.dtype.name, lambda: tensors[key])

    return [entry(key) for key in tensors]


def _npz_entries(path: AnyPath, stack: contextlib.ExitStack) -> list[Entry]:
    try:
        arrays = stack.enter_context(np.load(path, allow_pickle=False))
        return list(_nested_entries({key: arrays[key] for key in arrays.files}))
    except Exception as error:
        # numpy raises many types for files that are not its own.
        raise WeightFileError(f"{path} is no complete npz of plain arrays ({error})") from error


def _nested_entries(value: Any, key: str = "") -> Iterator[Entry]:
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "US":
            yield Entry(key, None, repr(value.tolist())[:_SHOWN])
        else:
            yield Entry(key, value.shape, value.dtype.name, lambda: value)
    elif isinstance(value, Mapping | list | tuple) and _holds_arrays(value):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, inner in items:
            yield from _nested_entries(inner, f"{key}.{name}" if key else str(name))
    else:
        yield Entry(key, None, repr(value)[:_SHOWN])


def _holds_arrays(value: Any) -> bool:
    if isinstance(value, Mapping | list | tuple):
        return any(map(_holds_arrays, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, np.ndarray)


def _checkpoint(directory: AnyPath, step: int | None) -> tuple[list[str], list[Entry]]:
    step = latest_step(directory) if step is None else step
    metadata = read_metadata(directory, step)
    arrays = _Restored(directory, step)
    entries = []
    for top, leaves in read_leaves(directory, step).items():
        for path, described in leaves.items():
            dtype, _, sizes = described.removesuffix("]").partition("[")
            shape = tuple(int(size) for size in sizes.split(",") if size)
            key = f"{top}.{path}" if path else top
            entries.append(Entry(key, shape, dtype, lambda key=key: arrays[key]))
    return [f"checkpoint of step {step}: {metadata}"], entries


class _Restored:
    """Arrays of a checkpoint, all of which are read when the first is asked for."""

    def __init__(self, directory: AnyPath, step: int):
        self._directory, self._step = directory, step

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return read_arrays(self._directory, self._step)

    def __getitem__(self, key: str) -> np.ndarray:
        return self._arrays[key]
