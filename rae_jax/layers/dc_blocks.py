"""Blocks of the deep compression autoencoder, DC-AE (Chen 2024, arXiv:2410.10733).

Behaviour follows `AutoencoderDC` of diffusers 0.42. Maps are NHWC.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.functional import Buffer
from rae_jax.ops.space_depth import (
    average_channels,
    enlarged_convolution,
    pixel_shuffle,
    pixel_unshuffle,
    repeat_channels,
)
from rae_jax.typing import Array, DTypeLike, Float

FACTOR = 2
"""By how much one step down or up changes both sides."""

_NORM_EPSILON = 1e-5
_ATTENTION_EPSILON = 1e-15
_EXPANSION = 4


def _identity(maps: Array) -> Array:
    return maps


def _exact_gelu(maps: Array) -> Array:
    return jax.nn.gelu(maps, approximate=False)


ACTIVATIONS: Mapping[str | None, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": _exact_gelu,
    "mish": jax.nn.mish,
    None: _identity,
}
"""By the name that diffusers gives it, in lower case."""


def convolution(
    channels: int,
    width: int,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    use_bias: bool = True,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution with as many zeros on every border as half its kernel."""
    return nnx.Conv(
        channels,
        width,
        (kernel_size, kernel_size),
        strides=stride,
        padding=kernel_size // 2,
        use_bias=use_bias,
        dtype=dtype,
        rngs=rngs,
    )


class ChannelRMSNorm(nnx.Module):
    """x / sqrt(mean(x²) + 1e-5) over the channels, with gain and bias; in float32."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Normalised maps, in the dtype that came in."""
        values = maps.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.square(values).mean(axis=-1, keepdims=True) + _NORM_EPSILON)
        values = values * inverse * _spread(self.scale) + _spread(self.bias)
        return values.astype(maps.dtype)


class StaticBatchNorm(nnx.Module):
    """Batch norm by the statistics of its training, which never change here; in float32."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = Buffer(jnp.zeros(channels))
        self.variance = Buffer(jnp.ones(channels))

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Normalised maps, in the dtype that came in."""
        gain = self.scale[...] * jax.lax.rsqrt(self.variance[...] + _NORM_EPSILON)
        shift = self.bias[...] - self.mean[...] * gain
        values = maps.astype(jnp.float32) * gain[None, None, None] + shift[None, None, None]
        return values.astype(maps.dtype)


NORMS: Mapping[str, Callable[[int], nnx.Module]] = {
    "rms_norm": ChannelRMSNorm,
    "batch_norm": StaticBatchNorm,
}
"""By the name that diffusers gives it."""


def _spread(vector: Any) -> Float[Array, "1 1 1 C"]:
    return vector[...][None, None, None]


class DepthwiseConvolution(nnx.Module):
    """One kernel per channel, zeros around the map; sums in float32.

    The kernel is [k, k, C]. The shifted products are added one by one: XLA joins them into one
    pass over the map, which on CPU is twenty times as fast as its grouped convolution.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        use_bias: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        draw = jax.nn.initializers.normal(1 / kernel_size)
        shape = (kernel_size, kernel_size, channels)
        self.kernel = nnx.Param(draw(rngs.params(), shape, jnp.float32))
        self.bias = nnx.data(nnx.Param(jnp.zeros(channels)) if use_bias else None)

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Filtered maps of the same size."""
        height, width = maps.shape[1:3]
        kernel = self.kernel[...]
        size = kernel.shape[0]
        before, after = size // 2, (size - 1) // 2
        border = (before, after)
        padded = jnp.pad(maps, ((0, 0), border, border, (0, 0))).astype(jnp.float32)
        total = jnp.zeros(maps.shape, jnp.float32)
        if self.bias is not None:
            total += _spread(self.bias)
        for row in range(size):
            for column in range(size):
                part = padded[:, row : row + height, column : column + width]
                total += part * kernel[row, column][None, None, None]
        return total.astype(self.dtype)


class ResidualBlock(nnx.Module):
    """maps + norm(convolution(activation(convolution(maps))))."""

    def __init__(
        self,
        channels: int,
        *,
        norm: str,
        activation: str | None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.activation = ACTIVATIONS[activation]
        self.convolution_1 = convolution(channels, channels, dtype=dtype, rngs=rngs)
        self.convolution_2 = convolution(channels, channels, use_bias=False, dtype=dtype, rngs=rngs)
        self.norm = NORMS[norm](channels)

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Maps of the same shape."""
        return maps + self.norm(self.convolution_2(self.activation(self.convolution_1(maps))))


class _ScaleProjection(nnx.Module):
    """Queries, keys and values averaged over neighbourhoods, then mixed within each head."""

    def __init__(
        self, channels: int, head_dim: int, kernel_size: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.dtype = dtype
        self.neighbours = DepthwiseConvolution(
            channels, kernel_size, use_bias=False, dtype=dtype, rngs=rngs
        )
        draw = jax.nn.initializers.lecun_normal(batch_axis=0)
        shape = (channels // head_dim, head_dim, head_dim)
        self.kernel = nnx.Param(draw(rngs.params(), shape, jnp.float32))

    def __call__(self, qkv: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """As many queries, keys and values, of a coarser scale."""
        kernel = self.kernel[...].astype(self.dtype)
        heads = self.neighbours(qkv).reshape(*qkv.shape[:3], *kernel.shape[:2])
        return jnp.einsum("bhwgi,gio->bhwgo", heads, kernel).reshape(qkv.shape)


class MultiscaleLinearAttention(nnx.Module):
    """maps + norm(out(ReLU linear attention)), over several scales (Cai 2022, arXiv:2205.14756).

    The outputs of `qkv` are the heads one after the other, each (query, key, value). Files of
    diffusers hold its first, second and last third as to_q, to_k and to_v, which they are not:
    there too every head takes its three parts from neighbouring channels of all thirds joined.
    Every further scale adds as many heads.
    """

    def __init__(
        self,
        channels: int,
        head_dim: int,
        kernel_sizes: Sequence[int],
        *,
        norm: str,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Builds the projections.

        Args:
            channels: Of the maps.
            head_dim: Width of a head, at most `channels`; the heads' widths together are the
                largest multiple of it.
            kernel_sizes: Odd sides of the neighbourhoods of the further scales.
            norm: Key of `NORMS`.
            dtype: Compute dtype.
            rngs: Source of the initial parameters.
        """
        self.head_dim = head_dim
        inner = channels // head_dim * head_dim
        options: dict[str, Any] = {"use_bias": False, "dtype": dtype, "rngs": rngs}
        self.qkv = nnx.Linear(channels, 3 * inner, **options)
        self.scales = nnx.List(
            _ScaleProjection(3 * inner, head_dim, size, dtype=dtype, rngs=rngs)
            for size in kernel_sizes
        )
        self.out = nnx.Linear(inner * (1 + len(kernel_sizes)), channels, **options)
        self.norm = NORMS[norm](channels)

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Maps of the same shape."""
        batch, height, width, _ = maps.shape
        qkv = self.qkv(maps)
        qkv = jnp.concatenate([qkv, *(scale(qkv) for scale in self.scales)], axis=-1)
        heads = qkv.reshape(batch, height * width, -1, 3, self.head_dim)
        mixed = relu_attention(heads[..., 0, :], heads[..., 1, :], heads[..., 2, :])
        mixed = mixed.astype(maps.dtype).reshape(batch, height, width, -1)
        return maps + self.norm(self.out(mixed))


def relu_attention(
    query: Float[Array, "B N heads head_dim"],
    key: Float[Array, "B N heads head_dim"],
    value: Float[Array, "B N heads head_dim"],
) -> Float[Array, "B N heads head_dim"]:
    """Attention whose weights are relu(query) · relu(key), divided by their sum; in float32.

    Multiplied from the right, its cost grows with the number of tokens, not with its square. With
    no more tokens than `head_dim` the other order is the cheaper one.
    """
    query, key = (jax.nn.relu(part.astype(jnp.float32)) for part in (query, key))
    value = value.astype(jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    if query.shape[1] > query.shape[3]:
        state = jnp.einsum("bnhd,bnhe->bhde", key, value, precision=highest)
        mixed = jnp.einsum("bnhd,bhde->bnhe", query, state, precision=highest)
        total = jnp.einsum("bnhd,bhd->bnh", query, key.sum(axis=1), precision=highest)
        return mixed / (total[..., None] + _ATTENTION_EPSILON)
    weights = jnp.einsum("bnhd,bmhd->bhnm", query, key, precision=highest)
    weights /= weights.sum(axis=-1, keepdims=True) + _ATTENTION_EPSILON
    return jnp.einsum("bhnm,bmhe->bnhe", weights, value, precision=highest)


class GatedConvolution(nnx.Module):
    """Inverted bottleneck with a gate, GLUMBConv: the feed-forward part of `EfficientViTBlock`.

    maps + rms_norm(point(a * silu(b))), where a, b = depthwise(silu(inverted(maps))).
    """

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        inner = _EXPANSION * channels
        self.inverted = nnx.Linear(channels, 2 * inner, dtype=dtype, rngs=rngs)
        self.depthwise = DepthwiseConvolution(2 * inner, 3, dtype=dtype, rngs=rngs)
        self.point = nnx.Linear(inner, channels, use_bias=False, dtype=dtype, rngs=rngs)
        self.norm = ChannelRMSNorm(channels)

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Maps of the same shape."""
        inner = self.depthwise(jax.nn.silu(self.inverted(maps)))
        values, gate = jnp.split(inner, 2, axis=-1)
        return maps + self.norm(self.point(values * jax.nn.silu(gate)))


class EfficientViTBlock(nnx.Module):
    """Attention over the whole map, then a gated convolution (Cai 2022, arXiv:2205.14756)."""

    def __init__(
        self,
        channels: int,
        head_dim: int,
        kernel_sizes: Sequence[int],
        *,
        norm: str,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Builds both halves; see `MultiscaleLinearAttention`, whose norm alone `norm` is."""
        self.attention = MultiscaleLinearAttention(
            channels, head_dim, kernel_sizes, norm=norm, dtype=dtype, rngs=rngs
        )
        self.feed_forward = GatedConvolution(channels, dtype=dtype, rngs=rngs)

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Maps of the same shape."""
        return self.feed_forward(self.attention(maps))


class Downsample(nnx.Module):
    """Half the sides: a strided convolution, or one at full size whose squares become channels.

    The shortcut adds the squares of the maps as channels, averaged over groups.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        unshuffle: bool,
        shortcut: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.unshuffle, self.shortcut, self.width = unshuffle, shortcut, width
        if unshuffle:
            self.convolution = convolution(channels, width // FACTOR**2, dtype=dtype, rngs=rngs)
        else:
            self.convolution = convolution(channels, width, stride=FACTOR, dtype=dtype, rngs=rngs)

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """Maps of half the sides, which must be even."""
        smaller = self.convolution(maps)
        if self.unshuffle:
            smaller = pixel_unshuffle(smaller, FACTOR)
        if not self.shortcut:
            return smaller
        return smaller + average_channels(pixel_unshuffle(maps, FACTOR), self.width)


class Upsample(nnx.Module):
    """Twice the sides: nearest neighbours and a convolution, or one whose channels become squares.

    The shortcut adds the maps with their channels repeated and made squares.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        interpolate: bool,
        shortcut: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.interpolate, self.shortcut, self.width = interpolate, shortcut, width
        wanted = width if interpolate else width * FACTOR**2
        self.convolution = convolution(channels, wanted, dtype=dtype, rngs=rngs)

    def __call__(self, maps: Float[Array, "B h w C"]) -> Float[Array, "B H W D"]:
        """Maps of twice the sides."""
        if self.interpolate:
            kernel, bias = self.convolution.kernel[...], _spread(self.convolution.bias)
            larger = enlarged_convolution(maps, kernel) + bias.astype(maps.dtype)
        else:
            larger = pixel_shuffle(self.convolution(maps), FACTOR)
        if not self.shortcut:
            return larger
        return larger + pixel_shuffle(repeat_channels(maps, self.width * FACTOR**2), FACTOR)
