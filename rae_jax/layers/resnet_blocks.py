"""Blocks of the convolutional autoencoder of latent diffusion (Rombach 2022, arXiv:2112.10752).

Behaviour follows `AutoencoderKL` of diffusers 0.42. Maps are NHWC.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.attention import SelfAttention
from rae_jax.layers.dc_blocks import convolution
from rae_jax.ops.space_depth import enlarged_convolution
from rae_jax.typing import Array, DTypeLike, Float

_NORM_EPSILON = 1e-6


class MapNorm(nnx.Module):
    """Group norm over groups of channels and all places; in float32."""

    def __init__(self, channels: int, num_groups: int, *, rngs: nnx.Rngs):
        self.norm = nnx.GroupNorm(
            channels,
            num_groups=num_groups,
            epsilon=_NORM_EPSILON,
            use_fast_variance=False,
            dtype=jnp.float32,
            rngs=rngs,
        )

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Normalised maps, in the dtype that came in."""
        return self.norm(maps.astype(jnp.float32)).astype(maps.dtype)


class ResnetBlock(nnx.Module):
    """shortcut(maps) + two times convolution(activation(norm(.)))."""

    def __init__(
        self,
        channels: int,
        width: int,
        num_groups: int,
        activation: Callable[[Array], Array],
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Builds the block.

        Args:
            channels: Of the maps that come in.
            width: Of the maps that go out; if it is another, the shortcut is a projection.
            num_groups: Of the norms; must divide both.
            activation: After each norm.
            dtype: Compute dtype.
            rngs: Source of the initial parameters.
        """
        self.activation = activation
        self.norm_1 = MapNorm(channels, num_groups, rngs=rngs)
        self.convolution_1 = convolution(channels, width, dtype=dtype, rngs=rngs)
        self.norm_2 = MapNorm(width, num_groups, rngs=rngs)
        self.convolution_2 = convolution(width, width, dtype=dtype, rngs=rngs)
        self.shortcut = nnx.data(
            nnx.Linear(channels, width, dtype=dtype, rngs=rngs) if channels != width else None
        )

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        """Maps of the same sides."""
        values = self.convolution_1(self.activation(self.norm_1(maps)))
        values = self.convolution_2(self.activation(self.norm_2(values)))
        return values + (maps if self.shortcut is None else self.shortcut(maps))


class MapAttention(nnx.Module):
    """maps + attention of all places to all: one head, queries to values by one product."""

    def __init__(self, channels: int, num_groups: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = MapNorm(channels, num_groups, rngs=rngs)
        self.attention = SelfAttention(channels, 1, dtype=dtype, rngs=rngs)

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Maps of the same shape."""
        batch, height, width, channels = maps.shape
        tokens = self.norm(maps).reshape(batch, height * width, channels)
        return maps + self.attention(tokens).reshape(maps.shape)


class MiddleBlock(nnx.Module):
    """Two resnet blocks, attention between them if asked for."""

    def __init__(
        self,
        channels: int,
        num_groups: int,
        activation: Callable[[Array], Array],
        *,
        has_attention: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        def block() -> ResnetBlock:
            return ResnetBlock(channels, channels, num_groups, activation, dtype=dtype, rngs=rngs)

        self.block_1 = block()
        self.attention = nnx.data(
            MapAttention(channels, num_groups, dtype=dtype, rngs=rngs) if has_attention else None
        )
        self.block_2 = block()

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Maps of the same shape."""
        maps = self.block_1(maps)
        if self.attention is not None:
            maps = self.attention(maps)
        return self.block_2(maps)


class StridedConvolution(nnx.Module):
    """Half the sides; zeros at the lower and right border alone."""

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.convolution = nnx.Conv(
            channels,
            channels,
            (3, 3),
            strides=2,
            padding=((0, 1), (0, 1)),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        """Maps of half the sides, rounded down."""
        return self.convolution(maps)


class EnlargingConvolution(nnx.Module):
    """Twice the sides by nearest neighbours, then a convolution; both in one step."""

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.convolution = convolution(channels, channels, dtype=dtype, rngs=rngs)

    def __call__(self, maps: Float[Array, "B h w C"]) -> Float[Array, "B H W C"]:
        """Maps of twice the sides."""
        kernel, bias = self.convolution.kernel[...], self.convolution.bias
        larger = enlarged_convolution(maps, kernel)
        return larger if bias is None else larger + bias[...].astype(maps.dtype)[None, None, None]
