"""Structural similarity of images (Wang 2004, doi:10.1109/TIP.2003.819861)."""

import numpy as np
from scipy.ndimage import correlate1d

from rae_jax.typing import Float, UInt8

_SIGMA = 1.5
_RADIUS = 5
_K1, _K2 = 0.01, 0.03


def ssim(
    reconstructions: UInt8[np.ndarray, "N H W C"], images: UInt8[np.ndarray, "N H W C"]
) -> Float[np.ndarray, " N"]:
    """Similarity of each image, 1 for equal ones, on [0, 1].

    As torchmetrics 1.9: a Gaussian window of 11 taps, the images mirrored at their borders, and
    the mean over the whole image and its channels (older versions cut the borders off).
    """
    return np.array([_ssim(a, b) for a, b in zip(reconstructions, images, strict=True)])


def _window() -> Float[np.ndarray, " taps"]:
    taps = np.exp(-0.5 * np.square(np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA))
    return taps / taps.sum()


def _blurred(values: Float[np.ndarray, "H W C"]) -> Float[np.ndarray, "H W C"]:
    # What scipy calls "mirror" is torch's "reflect": the border pixel is not repeated.
    rows = correlate1d(values, _window(), axis=0, mode="mirror")
    return correlate1d(rows, _window(), axis=1, mode="mirror")


def _ssim(first: UInt8[np.ndarray, "H W C"], second: UInt8[np.ndarray, "H W C"]) -> float:
    x, y = first / 255, second / 255
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x = (_blurred(x * x) - mean_x**2).clip(0)
    variance_y = (_blurred(y * y) - mean_y**2).clip(0)
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _K1**2) / (mean_x**2 + mean_y**2 + _K1**2)
    structure = (2 * covariance + _K2**2) / (variance_x + variance_y + _K2**2)
    return float((luminance * structure).mean())
