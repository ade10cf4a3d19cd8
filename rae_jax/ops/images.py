"""Value ranges and sizes of images.

The resizing functions give what torch's `interpolate` gives with `align_corners=False`.
`jax.image.resize` treats borders and coordinates otherwise, and its cubic coefficient is -0.5 where
torch without antialias has -0.75, so the weights are built here.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.typing import Array, Float, UInt8

_CUBIC = -0.75
_CUBIC_ANTIALIASED = -0.5


def to_float(images: UInt8[Array, "*batch H W C"]) -> Float[Array, "*batch H W C"]:
    """8-bit pixels as float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def to_uint8(images: Float[Array, "*batch H W C"]) -> UInt8[Array, "*batch H W C"]:
    """Pixels in [0, 1] as the nearest of 256 levels; values outside are clipped."""
    levels = jnp.round(images.astype(jnp.float32) * 255)
    return jnp.clip(levels, 0, 255).astype(jnp.uint8)


def to_signed(images: Float[Array, "*batch H W C"]) -> Float[Array, "*batch H W C"]:
    """Images in [0, 1] as images in [-1, 1]; values outside stay outside."""
    return 2 * images - 1


def from_signed(pixels: Float[Array, "*batch H W C"]) -> Float[Array, "*batch H W C"]:
    """Inverse of `to_signed`."""
    return (pixels + 1) / 2


def _per_channel(values: Sequence[float], images: Array) -> Array:
    channels = images.shape[-1]
    if len(values) != channels:
        raise ValueError(f"{channels} channels need as many means and deviations: {values}")
    return jnp.asarray(values, images.dtype).reshape((1,) * (images.ndim - 1) + (channels,))


def normalize(
    images: Float[Array, "*batch H W C"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "*batch H W C"]:
    """Gives (images - mean) / std, one mean and deviation per channel."""
    return (images - _per_channel(mean, images)) / _per_channel(std, images)


def denormalize(
    images: Float[Array, "*batch H W C"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "*batch H W C"]:
    """Gives images * std + mean: the inverse of `normalize`."""
    return images * _per_channel(std, images) + _per_channel(mean, images)


def _source_coordinates(size: int, new_size: int) -> Float[np.ndarray, " new_size"]:
    """Where the centres of the new pixels lie among the old ones."""
    if size < 1 or new_size < 1:
        raise ValueError(f"sizes must be positive, got {size} -> {new_size}")
    # In float32 as torch: float64 coordinates move the result by 1e-4 on 256 -> 224.
    step = np.float32(size / new_size)
    centres = np.arange(new_size, dtype=np.float32) + np.float32(0.5)
    return step * centres - np.float32(0.5)


def _scatter(
    first: np.ndarray, weights: Sequence[np.ndarray], size: int
) -> Float[np.ndarray, "new_size size"]:
    """Rows with `weights[k]` at index `first + k`, indices clamped to the border."""
    matrix = np.zeros((len(first), size))
    for offset, weight in enumerate(weights):
        columns = np.clip(first + offset, 0, size - 1)
        np.add.at(matrix, (np.arange(len(first)), columns), weight)
    return matrix.astype(np.float32)


def _cubic(distance: np.ndarray, coefficient: float) -> np.ndarray:
    """The cubic convolution kernel (Keys 1981), zero from distance 2 on."""
    distance = np.abs(distance)
    near = ((coefficient + 2) * distance - (coefficient + 3)) * distance**2 + 1
    far = coefficient * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


def _cubic_weights(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    coordinates = _source_coordinates(size, new_size)
    floor = np.floor(coordinates)
    fraction = (coordinates - floor).astype(np.float64)
    taps = [_cubic(fraction - offset, _CUBIC) for offset in (-1, 0, 1, 2)]
    return _scatter(floor.astype(np.int64) - 1, taps, size)


def _antialiased_cubic_weights(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    centres = _source_coordinates(size, new_size).astype(np.float64)[:, None]
    # When shrinking, the kernel is stretched over the pixels that become one.
    stretch = max(size / new_size, 1.0)
    weights = _cubic((np.arange(size) - centres) / stretch, _CUBIC_ANTIALIASED)
    # What falls off the border is left out, and the rest is weighed up.
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _linear_weights(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    coordinates = np.maximum(_source_coordinates(size, new_size), 0)
    floor = np.floor(coordinates)
    fraction = (coordinates - floor).astype(np.float64)
    return _scatter(floor.astype(np.int64), (1 - fraction, fraction), size)


def _resample(
    images: Float[Array, "*batch H W C"],
    rows: Float[np.ndarray, "new_H H"],
    columns: Float[np.ndarray, "new_W W"],
) -> Float[Array, "*batch new_H new_W C"]:
    values = images.astype(jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    values = jnp.einsum("yh,...hwc->...ywc", rows, values, precision=highest)
    values = jnp.einsum("xw,...ywc->...yxc", columns, values, precision=highest)
    return values.astype(images.dtype)


def resize_bicubic(
    images: Float[Array, "*batch H W C"], height: int, width: int
) -> Float[Array, "*batch {height} {width} C"]:
    """Bicubic resize as torch's without antialias: coefficient -0.75, border repeated.

    Overshoots are kept: values may leave the range of the input.
    """
    rows = _cubic_weights(images.shape[-3], height)
    return _resample(images, rows, _cubic_weights(images.shape[-2], width))


def resize_bicubic_antialiased(
    images: Float[Array, "*batch H W C"], height: int, width: int
) -> Float[Array, "*batch {height} {width} C"]:
    """Bicubic resize as torch's with antialias: coefficient -0.5, border left out.

    Overshoots are kept: values may leave the range of the input.
    """
    rows = _antialiased_cubic_weights(images.shape[-3], height)
    return _resample(images, rows, _antialiased_cubic_weights(images.shape[-2], width))


def resize_bilinear(
    images: Float[Array, "*batch H W C"], height: int, width: int
) -> Float[Array, "*batch {height} {width} C"]:
    """Bilinear resize as torch's without antialias."""
    rows = _linear_weights(images.shape[-3], height)
    return _resample(images, rows, _linear_weights(images.shape[-2], width))
