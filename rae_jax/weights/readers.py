"""Reads weight files without loading what is not asked for."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from rae_jax.files import any_path, local_path
from rae_jax.weights.checkpoints import flat
from rae_jax.weights.errors import WeightFileError
from rae_jax.weights.torch_files import read_torch

T = TypeVar("T")

INDEX_SUFFIX = ".index.json"
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")

_DTYPES: Mapping[str, Any] = {
    "BOOL": np.bool_,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    **{f"F{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
}


@dataclasses.dataclass(frozen=True)
class Header:
    """What is known of an entry before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Size of the entry."""
        return math.prod(self.shape) * self.dtype.itemsize


def header(tensors: Mapping[str, np.ndarray], key: str) -> Header:
    """Shape and dtype of an entry, without reading it where that is possible."""
    if isinstance(tensors, SafetensorFile | ShardedTensors):
        return tensors.header(key)
    return Header(tensors[key].shape, tensors[key].dtype)


class SafetensorFile(Mapping[str, np.ndarray]):
    """Entries of one safetensors file; each is read when it is looked up."""

    def __init__(self, path: str | os.PathLike[str]):
        """Opens the file and reads its header.

        Raises:
            FileNotFoundError: If there is no such file.
            WeightFileError: If it is not a complete safetensors file.
        """
        self._path = local_path(path, "weights")
        if not self._path.is_file():
            raise FileNotFoundError(f"no weight file at {path}")
        try:
            self._file = safe_open(self._path, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise WeightFileError(
                f"{path} is not a complete safetensors file ({error}); fetch it again, or convert "
                "it if it is of another format"
            ) from error
        self._keys = dict.fromkeys(self._file.keys())

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._keys:
            raise KeyError(key)
        try:
            return self._file.get_tensor(key)
        except (SafetensorError, TypeError) as error:
            raise WeightFileError(f"cannot read {key} of {self._path}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def header(self, key: str) -> Header:
        """Shape and dtype of an entry."""
        if key not in self._keys:
            raise KeyError(key)
        entry = self._file.get_slice(key)
        code = entry.get_dtype()
        if code not in _DTYPES:
            raise WeightFileError(f"cannot read {key} of {self._path}: its dtype is {code}")
        return Header(tuple(entry.get_shape()), np.dtype(_DTYPES[code]))


class ShardedTensors(Mapping[str, np.ndarray]):
    """Entries of several files that one index file lists."""

    def __init__(self, index: str | os.PathLike[str]):
        """Opens every shard named by the index.

        Raises:
            FileNotFoundError: If the index or a shard is missing.
            WeightFileError: If the index is damaged, or a shard is, or lacks a listed entry.
        """
        index = pathlib.Path(index)
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise WeightFileError(f"{index} must hold a weight_map from entries to files")
        shards = {name: _read_file(index.parent / name) for name in sorted(set(names.values()))}
        absent = [f"{key} ({name})" for key, name in names.items() if key not in shards[name]]
        if absent:
            raise WeightFileError(f"{index} lists entries that its files lack: {absent}")
        self._files = {key: shards[name] for key, name in names.items()}

    def __getitem__(self, key: str) -> np.ndarray:
        return self._files[key][key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def header(self, key: str) -> Header:
        """Shape and dtype of an entry."""
        return header(self._files[key], key)


def read_json(path: str | os.PathLike[str]) -> dict:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        WeightFileError: If it holds no JSON object.
    """
    path = any_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightFileError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightFileError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def read_config(path: str | os.PathLike[str], read: Callable[[dict[str, Any]], T]) -> T:
    """What `read` makes of the object in a JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no JSON object, or what `read` refuses; the message names the file.
    """
    content = read_json(path)
    try:
        return read(content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_tensors(path: str | os.PathLike[str], stem: str = "model") -> Mapping[str, np.ndarray]:
    """Entries of a weight file, a sharded set or a folder with either, read lazily.

    Args:
        path: A safetensors file, a file of `torch.save` (.pt, .pth, .bin, .ckpt) with tensors by
            key, an index of several (.index.json), or a folder.
        stem: In a folder, the name of the file before `.safetensors` or `.bin`; the names of
            transformers, `pytorch_<stem>.bin`, are found too.

    Returns:
        Arrays by key; bfloat16 as the dtype of `ml_dtypes`.

    Raises:
        FileNotFoundError: If there are no weights.
        WeightFileError: If a file is damaged, of another format, or holds anything else.
    """
    path = local_path(path, "weights")
    if path.is_dir():
        path = _weights_in(path, stem)
    return ShardedTensors(path) if path.name.endswith(INDEX_SUFFIX) else _read_file(path)


def _weights_in(folder: pathlib.Path, stem: str) -> pathlib.Path:
    files = (f"{stem}.safetensors", f"{stem}.bin", f"pytorch_{stem}.bin")
    names = [name for file in files for name in (file, f"{file}{INDEX_SUFFIX}")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} holds none of {', '.join(names)}")


def _read_file(path: pathlib.Path) -> Mapping[str, np.ndarray]:
    if path.suffix not in TORCH_SUFFIXES:
        return SafetensorFile(path)
    content = read_torch(path)
    try:
        return flat(content)
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None
