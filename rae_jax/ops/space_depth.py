"""Squares of pixels as channels and back, cheap changes of the number of channels, enlarging.

Channels are ordered (channel, row, column) within a square, as in PyTorch's `pixel_shuffle`.
"""

import jax
import jax.numpy as jnp

from rae_jax.typing import Array, Float


def pixel_unshuffle(maps: Float[Array, "B H W C"], factor: int) -> Float[Array, "B h w D"]:
    """Every square of factor x factor pixels as one pixel of factor² times as many channels.

    Raises:
        ValueError: The factor does not divide both sides.
    """
    batch, height, width, channels = maps.shape
    if height % factor or width % factor:
        raise ValueError(f"sides must be multiples of {factor}, got {height} x {width}")
    squares = maps.reshape(batch, height // factor, factor, width // factor, factor, channels)
    squares = squares.transpose(0, 1, 3, 5, 2, 4)
    return squares.reshape(batch, height // factor, width // factor, channels * factor**2)


def pixel_shuffle(maps: Float[Array, "B h w C"], factor: int) -> Float[Array, "B H W D"]:
    """Inverse of `pixel_unshuffle`; factor² must divide the channels."""
    batch, height, width, channels = maps.shape
    squares = maps.reshape(batch, height, width, channels // factor**2, factor, factor)
    squares = squares.transpose(0, 1, 4, 2, 5, 3)
    return squares.reshape(batch, height * factor, width * factor, channels // factor**2)


def average_channels(maps: Float[Array, "B H W C"], channels: int) -> Float[Array, "B H W D"]:
    """Means of groups of neighbouring channels, `channels` of them, which must divide C."""
    return maps.reshape(*maps.shape[:3], channels, -1).mean(axis=-1)


def repeat_channels(maps: Float[Array, "B H W C"], channels: int) -> Float[Array, "B H W D"]:
    """Every channel several times in a row, so that there are `channels`, a multiple of C."""
    return jnp.repeat(maps, channels // maps.shape[-1], axis=-1)


def enlarged_convolution(
    maps: Float[Array, "B h w C"], kernel: Float[Array, "3 3 C D"]
) -> Float[Array, "B H W D"]:
    """3 x 3 convolution, zeros around, of maps made twice as large by nearest neighbours.

    The enlarged maps are never made: among their pixels each of the four places of a square sees
    2 x 2 of the small ones, by sums of the kernel's rows and columns (taken in its own dtype, then
    cast to that of the maps). That is 16 products instead of 36 for every small pixel.
    """
    rows = []
    for row, of_row in enumerate(_halves(kernel, 0)):
        places = [
            jax.lax.conv_general_dilated(
                maps,
                part.astype(maps.dtype),
                (1, 1),
                [(1 - row, row), (1 - column, column)],
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            for column, part in enumerate(_halves(of_row, 1))
        ]
        rows.append(jnp.stack(places, axis=3))
    batch, height, width, _ = maps.shape
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, -1)


def _halves(kernel: Array, axis: int) -> tuple[Array, Array]:
    """What the first and the second of two equal pixels see of the small ones."""
    before, middle, after = jnp.split(kernel, 3, axis=axis)
    return (
        jnp.concatenate([before, middle + after], axis=axis),
        jnp.concatenate([before + middle, after], axis=axis),
    )
