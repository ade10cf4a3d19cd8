"""VGG16's convolutions (Simonyan & Zisserman 2015, arXiv:1409.1556), for perceptual losses."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from rae_jax.ops.convolution import convolve
from rae_jax.typing import Array, DTypeLike, Float

VGG16_WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five blocks."""

_CONVOLUTIONS = (2, 2, 3, 3, 3)


class Convolution(nnx.Module):
    """relu(3 x 3 convolution + bias), zeros around the image."""

    def __init__(self, channels: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dtype = dtype
        draw = jax.nn.initializers.he_normal()
        self.kernel = nnx.Param(draw(rngs.params(), (3, 3, channels, width), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        """Activations, at least zero."""
        maps = convolve(maps.astype(self.dtype), self.kernel[...].astype(self.dtype), padding=1)
        return jax.nn.relu(maps + self.bias[...].astype(self.dtype)[None, None, None])


class VGG16(nnx.Module):
    """Activations after the last convolution of each of the five blocks.

    Attributes:
        widths: Channels of each block's activations.
    """

    def __init__(self, *, widths: Sequence[int] = VGG16_WIDTHS, dtype: DTypeLike, rngs: nnx.Rngs):
        """Builds the network with normal kernels whose gain suits the ReLUs.

        Args:
            widths: Channels of each block; narrower networks are for tests and demonstrations.
            dtype: Compute dtype.
            rngs: Source of the initial parameters.
        """
        self.widths = tuple(widths)
        channels, blocks = 3, []
        for width, count in zip(self.widths, _CONVOLUTIONS, strict=True):
            inputs = (channels, *[width] * (count - 1))
            layers = [Convolution(size, width, dtype=dtype, rngs=rngs) for size in inputs]
            blocks.append(nnx.List(layers))
            channels = width
        self.blocks = nnx.List(blocks)

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> tuple[Float[Array, "B _ _ _"], ...]:
        """Five maps, each of half the sides of the one before, rounded down.

        Args:
            pixels: Normalised; at least 16 pixels a side.
        """
        features, maps = [], pixels
        for block in self.blocks:
            if features:
                maps = nnx.max_pool(maps, (2, 2), strides=(2, 2))
            for convolution in block:
                maps = convolution(maps)
            features.append(maps)
        return tuple(features)
