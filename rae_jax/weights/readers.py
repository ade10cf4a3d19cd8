"""Reads weight files without loading what is not asked for."""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from safetensors import SafetensorError, safe_open

from rae_jax.weights.errors import WeightFileError

INDEX_SUFFIX = ".safetensors.index.json"


class SafetensorFile(Mapping[str, np.ndarray]):
    """Entries of one safetensors file; each is read when it is looked up."""

    def __init__(self, path: str | os.PathLike[str]):
        """Opens the file and reads its header.

        Raises:
            FileNotFoundError: If there is no such file.
            WeightFileError: If it is not a complete safetensors file.
        """
        self._path = pathlib.Path(path)
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


class ShardedSafetensors(Mapping[str, np.ndarray]):
    """Entries of several safetensors files that one index file lists."""

    def __init__(self, index: str | os.PathLike[str]):
        """Opens every shard named by the index.

        Raises:
            FileNotFoundError: If the index or a shard is missing.
            WeightFileError: If the index is damaged, or a shard is, or lacks a listed entry.
        """
        index = pathlib.Path(index)
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict):
            raise WeightFileError(f"{index} must hold a weight_map from entries to files")
        shards = {name: SafetensorFile(index.parent / name) for name in sorted(set(names.values()))}
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


def read_json(path: str | os.PathLike[str]) -> dict:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        WeightFileError: If it holds no JSON object.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightFileError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightFileError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def read_tensors(path: str | os.PathLike[str], stem: str = "model") -> Mapping[str, np.ndarray]:
    """Entries of a safetensors file, a sharded set or a folder with either, read lazily.

    Args:
        path: A `.safetensors` file, a `.safetensors.index.json` file, or a folder.
        stem: In a folder, the name of the file before `.safetensors`.

    Returns:
        Arrays by key; bfloat16 as the dtype of `ml_dtypes`.

    Raises:
        FileNotFoundError: If there are no weights.
        WeightFileError: If a file is damaged or of another format.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        single, index = path / f"{stem}.safetensors", path / f"{stem}{INDEX_SUFFIX}"
        if single.is_file():
            return SafetensorFile(single)
        if index.is_file():
            return ShardedSafetensors(index)
        raise FileNotFoundError(f"{path} holds neither {single.name} nor {index.name}")
    if path.name.endswith(INDEX_SUFFIX):
        return ShardedSafetensors(path)
    return SafetensorFile(path)
