"""Squares of pixels as channels and back, and the cheap ways to change the number of channels.

Channels are ordered (channel, row, column) within a square, as in PyTorch's `pixel_shuffle`.
"""

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
