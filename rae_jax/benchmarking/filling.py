"""Weights and inputs that every side makes alike, whatever computes with them.

An array depends on its name and shape alone. Its numbers are a window of one pool, over and over:
a full-size model is filled as fast as memory is written.
"""

import functools
import zlib

import numpy as np

_POOL = 1_000_003
"""A prime, so that no two rows of a matrix are the same."""


@functools.cache
def _pool() -> np.ndarray:
    bound = 3**0.5
    return np.random.default_rng(0).uniform(-bound, bound, _POOL).astype(np.float32)


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 numbers of zero mean and unit variance."""
    start = zlib.crc32(name.encode()) % _POOL
    return np.resize(np.roll(_pool(), -start), shape)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An entry of a checkpoint of PyTorch, such that activations keep their scale.

    Matrices and convolutions get unit gain over their inputs; vectors of scales and variances lie
    around one, all others around zero; tables are small.
    """
    found = values(name, shape)
    around_one = name.endswith(("weight", "running_var", "lambda1"))
    if len(shape) <= 1:
        found *= np.float32(0.1)
        return found + np.float32(1) if around_one else found
    found *= np.float32(np.prod(shape[1:]) ** -0.5 if name.endswith("weight") else 0.02)
    return found


def images(count: int, side: int) -> np.ndarray:
    """NHWC in [0, 1]."""
    return 0.5 + values("images", (count, side, side, 3)) / np.float32(12**0.5)


def latents(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """NHWC."""
    return values("latents", (count, *shape))


def times(count: int) -> np.ndarray:
    """Of every sample, within (0, 1)."""
    return ((np.arange(count, dtype=np.float32) + 0.5) / count).astype(np.float32)


def labels(count: int, num_classes: int) -> np.ndarray:
    """Of every sample, int32."""
    return (np.arange(count, dtype=np.int32) * 7) % num_classes


def excerpt(answer: np.ndarray) -> np.ndarray:
    """A few hundred of the numbers of an answer, from everywhere in it."""
    flat = np.asarray(answer, np.float32).ravel()
    return flat[:: max(flat.size // 509, 1)]
