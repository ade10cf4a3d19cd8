"""Writes weight files that appear under their name only when they are complete."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from rae_jax.files import replacing


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file; an existing one is replaced as a whole."""
    # Files are written from memory as it lies: a transposed view would come out untransposed.
    arrays = {key: np.asarray(array, order="C") for key, array in tensors.items()}
    with replacing(path) as partial:
        save_file(arrays, partial, metadata={"format": "pt"})


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Writes a JSON object, indented, with a final newline."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")
