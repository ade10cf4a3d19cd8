"""How close reconstructions come to their originals."""

import numpy as np

from rae_jax.typing import Float, UInt8

_FLOOR = 1e-10


def psnr(
    reconstructions: UInt8[np.ndarray, "N H W C"], images: UInt8[np.ndarray, "N H W C"]
) -> Float[np.ndarray, " N"]:
    """Peak signal-to-noise ratio of each image in dB, on [0, 1].

    The squared error has a floor of 1e-10, so equal images score 100 dB (bytetriper/RAE,
    eval/metrics).
    """
    difference = (reconstructions.astype(np.float64) - images.astype(np.float64)) / 255
    error = np.square(difference).mean(axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(error, _FLOOR))
