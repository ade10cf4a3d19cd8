"""Writes weight files that appear under their name only when they are complete."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save_file


@contextlib.contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A temporary name beside `path` that takes its place if the block ends well."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = pathlib.Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file; an existing one is replaced as a whole."""
    # Files are written from memory as it lies: a transposed view would come out untransposed.
    arrays = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
    with _replacing(path) as temporary:
        save_file(arrays, temporary, metadata={"format": "pt"})


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Writes a JSON object, indented, with a final newline."""
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")
