"""Structural similarity of images (Wang 2004, doi:10.1109/TIP.2003.819861)."""

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.typing import Array, Float, UInt8

_SIGMA = 1.5
_RADIUS = 5
_K1, _K2 = 0.01, 0.03
_SMALLEST = _RADIUS + 1


def ssim(
    reconstructions: UInt8[Array, "N H W C"], images: UInt8[Array, "N H W C"]
) -> Float[Array, " N"]:
    """Similarity of each image, 1 for equal ones, on [0, 1]; float64 where JAX has that enabled.

    As torchmetrics 1.9: a Gaussian window of 11 taps, the images mirrored at their borders, and
    the mean over the whole image and its channels (older versions cut the borders off). In
    float32 the differences of nearly equal squares cost up to 1e-5 of the score.

    Raises:
        ValueError: The images are smaller than half the window.
    """
    height, width = images.shape[1:3]
    if min(height, width) < _SMALLEST:
        raise ValueError(
            f"SSIM needs images of {_SMALLEST} pixels a side at least, got {width} x {height}; "
            "leave it out of the metrics"
        )
    # One by one, because the intermediate maps of a single image stay near the processor.
    return jax.lax.map(lambda pair: _ssim(*pair), (reconstructions, images))


def _window() -> list[float]:
    taps = np.exp(-0.5 * np.square(np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA))
    return [float(tap) for tap in taps / taps.sum()]


def _blurred(values: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    taps = _window()
    for axis in (0, 1):
        size = values.shape[axis]
        borders = [(_RADIUS, _RADIUS) if axis == other else (0, 0) for other in range(3)]
        # "reflect" does not repeat the border pixel.
        wide = jnp.pad(values, borders, mode="reflect")
        parts = (jax.lax.slice_in_dim(wide, at, at + size, axis=axis) for at in range(len(taps)))
        weighted = (tap * part for tap, part in zip(taps, parts, strict=True))
        values = sum(weighted, start=jnp.zeros_like(values))
    return values


def _ssim(first: UInt8[Array, "H W C"], second: UInt8[Array, "H W C"]) -> Float[Array, ""]:
    x, y = (pixels.astype(float) / 255 for pixels in (first, second))
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x = (_blurred(x * x) - mean_x**2).clip(0)
    variance_y = (_blurred(y * y) - mean_y**2).clip(0)
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _K1**2) / (mean_x**2 + mean_y**2 + _K1**2)
    structure = (2 * covariance + _K2**2) / (variance_x + variance_y + _K2**2)
    return (luminance * structure).mean()
