"""Discriminator on the features of a frozen DINO (Sauer 2023, arXiv:2301.09515; as in RAE).

Its heads are trained. Their spectral norm estimates the largest singular value of each kernel by
power iteration: the vectors of the iteration are Variables of their own, which nothing changes in
place. A training step asks for the next ones and classifies with them.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.functional import freeze
from rae_jax.layers.mlp import tanh_gelu
from rae_jax.layers.patch_embedding import PatchEmbedding
from rae_jax.layers.stack import scan_layers, stack_layers
from rae_jax.layers.vit_block import ViTBlock, ViTStyle
from rae_jax.ops.convolution import convolve
from rae_jax.ops.images import normalize, resize_bilinear
from rae_jax.typing import Array, DTypeLike, Float

# ImageNet's mean and deviation, for images in [-1, 1].
_MEAN = tuple(2 * value - 1 for value in (0.485, 0.456, 0.406))
_STD = tuple(2 * value for value in (0.229, 0.224, 0.225))
_LEAK = 0.2
_NORM_GROUPS = 32
_SMALLEST_LENGTH = 1e-12

Norm = Literal["batch", "group"]


@dataclasses.dataclass(frozen=True)
class DINOConfig:
    """Sizes of a DINO vision transformer (Caron 2021, arXiv:2104.14294).

    Attributes:
        hidden_size: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads.
        patch_size: Side of a patch.
        image_size: Side that images are resized to.
        mlp_ratio: Inner width of the feed-forward halves over `hidden_size`.
        layer_norm_eps: Epsilon of every LayerNorm.
    """

    hidden_size: int = 384
    depth: int = 12
    num_heads: int = 6
    patch_size: int = 8
    image_size: int = 224
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """Rejects images that are no whole number of patches."""
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size {self.patch_size}, "
                f"got {self.image_size}"
            )

    @property
    def num_patches(self) -> int:
        """Tokens of an image without the class token."""
        return (self.image_size // self.patch_size) ** 2


DINO_SIZES: Mapping[str, DINOConfig] = {
    "S_8": DINOConfig(patch_size=8),
    "S_16": DINOConfig(patch_size=16),
    "B_16": DINOConfig(hidden_size=768, num_heads=12, patch_size=16),
}
"""Published networks, called as the RAE release calls them."""


class DINO(nnx.Module):
    """The blocks of a DINO, whose final norm is not used; its feed-forward halves use tanh GELU."""

    def __init__(
        self,
        config: DINOConfig,
        *,
        dtype: DTypeLike,
        unroll: int = 1,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        """Builds the network.

        Args:
            config: Sizes.
            dtype: Compute dtype.
            unroll: Blocks per iteration of the scan.
            remat: What the backward pass recomputes, see `scan_layers`.
            rngs: Source of the initial parameters.
        """
        self.config, self.dtype, self.unroll, self.remat = config, dtype, unroll, remat
        width = config.hidden_size
        self.patch_embedding = PatchEmbedding(config.patch_size, 3, width, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (width,)))
        positions = jax.random.normal(rngs.params(), (1 + config.num_patches, width))
        self.position_table = nnx.Param(0.02 * positions)
        self.blocks = stack_layers(
            lambda layer_rngs: ViTBlock(
                width,
                config.num_heads,
                round(config.mlp_ratio * width),
                epsilon=config.layer_norm_eps,
                style=ViTStyle(activation=tanh_gelu),
                dtype=dtype,
                rngs=layer_rngs,
            ),
            config.depth,
            rngs,
        )

    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "L B N D"]:
        """Every block's patch tokens, in raster order and the compute dtype.

        Args:
            images: In [-1, 1]; those of another size than the native one are resized to it
                (bilinear without antialias).
        """
        side = self.config.image_size
        if images.shape[1:3] != (side, side):
            images = resize_bilinear(images, side, side)
        patches = self.patch_embedding(normalize(images, _MEAN, _STD)).astype(self.dtype)
        first = self.class_token[...].astype(self.dtype)
        first = jnp.broadcast_to(first, (patches.shape[0], 1, patches.shape[-1]))
        tokens = jnp.concatenate([first, patches], axis=1)
        tokens = tokens + self.position_table[...][None].astype(self.dtype)
        _, outputs = scan_layers(
            lambda tokens, block: block(tokens),
            self.blocks,
            tokens,
            unroll=self.unroll,
            remat=self.remat,
            keep_outputs=True,
        )
        return outputs[:, :, 1:]


class SpectralVector(nnx.Variable):
    """A vector of a power iteration: no parameter, but other after every training step."""


class CircularConvolution(nnx.Module):
    """1-D convolution of tokens that wraps round their ends; its kernel may be spectrally normed.

    The spectral norm is that of torch's `spectral_norm` (Miyato 2018, arXiv:1802.05957): the kernel
    is divided by left · (M right), M being the kernel as a matrix [D, C * kernel_size].
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernel_size: int,
        *,
        spectral: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Draws kernel and bias as torch does, uniform within ±1/sqrt(fan-in).

        Args:
            channels: Channels that come in.
            width: Channels that go out.
            kernel_size: Odd.
            spectral: Whether the kernel is spectrally normed.
            dtype: Compute dtype.
            rngs: Source of the initial parameters.
        """
        self.dtype = dtype
        fan_in = kernel_size * channels
        bound = fan_in**-0.5

        def uniform(*shape: int) -> nnx.Param:
            return nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound))

        def direction(size: int) -> SpectralVector:
            return SpectralVector(_unit(jax.random.normal(rngs.params(), (size,))))

        self.kernel, self.bias = uniform(kernel_size, channels, width), uniform(width)
        self.left = nnx.data(direction(width) if spectral else None)
        self.right = nnx.data(direction(fan_in) if spectral else None)

    def __call__(self, tokens: Float[Array, "B N C"]) -> Float[Array, "B N D"]:
        """Tokens in the compute dtype."""
        kernel = self.kernel[...]
        if self.left is not None and self.right is not None:
            left, right = self.left[...], self.right[...]
            kernel = kernel / jnp.vdot(left, _product(self._matrix(), right))
        ends = kernel.shape[0] // 2
        padded = jnp.pad(tokens.astype(self.dtype), ((0, 0), (ends, ends), (0, 0)), mode="wrap")
        tokens = convolve(padded, kernel.astype(self.dtype), padding=0)
        return tokens + self.bias[...].astype(self.dtype)[None, None]

    def next_vectors(self) -> dict[str, Array]:
        """`left` and `right` after one power iteration; no gradient goes through them."""
        if self.left is None:
            return {}
        matrix = jax.lax.stop_gradient(self._matrix())
        right = _unit(_product(matrix.T, self.left[...]))
        return {"left": _unit(_product(matrix, right)), "right": right}

    def _matrix(self) -> Float[Array, "D CK"]:
        kernel = self.kernel[...]
        return kernel.transpose(2, 1, 0).reshape(kernel.shape[-1], -1)


def _product(matrix: Float[Array, "m n"], vector: Float[Array, " n"]) -> Float[Array, " m"]:
    # The whole kernel is divided by what comes out, and the cost is nothing.
    return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)


def _unit(vector: Float[Array, " n"]) -> Float[Array, " n"]:
    return vector / jnp.maximum(jnp.linalg.norm(vector), _SMALLEST_LENGTH)


class GroupedBatchNorm(nnx.Module):
    """Batch norm by the statistics of small groups of samples, in training and evaluation alike.

    With groups of one, no sample depends on the others.
    """

    def __init__(self, channels: int, *, epsilon: float, group_size: int = 1):
        """Makes gain one and bias zero.

        Args:
            channels: Width of the tokens.
            epsilon: Added to the variances.
            group_size: Most consecutive samples that share mean and variance; groups are made
                equal.
        """
        self.epsilon, self.group_size = epsilon, group_size
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, tokens: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        """Tokens in float32.

        Raises:
            ValueError: The batch cannot be cut into equal groups.
        """
        groups = math.ceil(tokens.shape[0] / self.group_size)
        if tokens.shape[0] % groups:
            raise ValueError(
                f"{tokens.shape[0]} samples in groups of at most {self.group_size} make {groups} "
                "groups, which are not equal; change the batch or the group size"
            )
        grouped = tokens.astype(jnp.float32).reshape(groups, -1, *tokens.shape[1:])
        mean = grouped.mean(axis=(1, 2), keepdims=True)
        variance = grouped.var(axis=(1, 2), keepdims=True)
        grouped = (grouped - mean) / jnp.sqrt(variance + self.epsilon)
        tokens = grouped.reshape(tokens.shape)
        return tokens * self.scale[...][None, None] + self.bias[...][None, None]


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """What the heads of a discriminator look at and consist of.

    Attributes:
        key_depths: Blocks whose tokens are judged, counted from zero; those of the last block are
            judged in any case, first of all.
        kernel_size: Of the convolution among tokens.
        norm: "batch", each sample by itself; or "group", in groups of channels.
        spectral: Whether kernels are spectrally normed.
        norm_eps: Epsilon of the norms.
    """

    key_depths: tuple[int, ...] = (2, 5, 8, 11)
    kernel_size: int = 9
    norm: Norm = "batch"
    spectral: bool = True
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """Rejects kernels without a middle and norms that there are not."""
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")
        if self.norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {get_args(Norm)}, got {self.norm!r}")


class HeadBlock(nnx.Module):
    """leaky_relu(norm(convolution(tokens)))."""

    def __init__(
        self,
        width: int,
        kernel_size: int,
        config: HeadConfig,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.convolution = CircularConvolution(
            width, width, kernel_size, spectral=config.spectral, dtype=dtype, rngs=rngs
        )
        if config.norm == "batch":
            self.norm = GroupedBatchNorm(width, epsilon=config.norm_eps)
        else:
            self.norm = nnx.GroupNorm(
                width,
                num_groups=_NORM_GROUPS,
                epsilon=config.norm_eps,
                use_fast_variance=False,
                dtype=jnp.float32,
                rngs=rngs,
            )

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Tokens in float32."""
        return jax.nn.leaky_relu(self.norm(self.convolution(tokens)), _LEAK)


class Head(nnx.Module):
    """Tokens to one logit each."""

    def __init__(self, width: int, config: HeadConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.entry = HeadBlock(width, 1, config, dtype=dtype, rngs=rngs)
        self.mixing = HeadBlock(width, config.kernel_size, config, dtype=dtype, rngs=rngs)
        self.logit = CircularConvolution(
            width, 1, 1, spectral=config.spectral, dtype=dtype, rngs=rngs
        )

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N"]:
        """Logits in float32."""
        tokens = self.entry(tokens)
        tokens = (self.mixing(tokens) + tokens) / math.sqrt(2)
        return self.logit(tokens)[..., 0].astype(jnp.float32)

    def next_vectors(self) -> dict[str, Any]:
        """See `DINODiscriminator.next_vectors`."""
        return {
            "entry": {"convolution": self.entry.convolution.next_vectors()},
            "mixing": {"convolution": self.mixing.convolution.next_vectors()},
            "logit": self.logit.next_vectors(),
        }


class DINODiscriminator(nnx.Module):
    """Real or made, for every token of several depths of a frozen DINO.

    The backbone's Variables become `Frozen`; the heads' are `Param`s and `SpectralVector`s.
    """

    def __init__(self, backbone: DINO, config: HeadConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Adds heads to a backbone.

        Args:
            backbone: Frozen in place.
            config: Of the heads.
            dtype: Compute dtype of the heads.
            rngs: Source of the heads' initial parameters.

        Raises:
            ValueError: The backbone is not as deep as a key depth.
        """
        depth = backbone.config.depth
        if not all(0 <= key < depth for key in config.key_depths):
            raise ValueError(
                f"key_depths must be some of 0 to {depth - 1}, the backbone's blocks, got "
                f"{config.key_depths}"
            )
        self.config, self.backbone = config, freeze(backbone)
        self.heads = stack_layers(
            lambda head_rngs: Head(
                backbone.config.hidden_size, config, dtype=dtype, rngs=head_rngs
            ),
            1 + len(config.key_depths),
            rngs,
        )

    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B L"]:
        """Logits, larger for what looks real: those of the first head for all tokens, and so on.

        Args:
            images: In [-1, 1], any size.
        """
        return self.classify(self.features(images))

    def features(self, images: Float[Array, "B H W 3"]) -> Float[Array, "heads B N D"]:
        """What the heads look at: the tokens of the last block, then those of the key depths."""
        chosen = np.array([self.backbone.config.depth - 1, *self.config.key_depths])
        return self.backbone(images)[chosen]

    def classify(self, features: Float[Array, "heads B N D"]) -> Float[Array, "B L"]:
        """Logits of `features`, which several calls may share."""
        logits = jax.lax.map(lambda head: head[0](head[1]), (self.heads, features))
        return logits.swapaxes(0, 1).reshape(features.shape[1], -1)

    def next_vectors(self) -> dict[str, Any]:
        """The vectors after one power iteration, which follows from the kernels alone.

        In training there is one before every classification: that of the made images, then that
        of the real ones.

        Returns:
            The tree of `SpectralVector`s that `split(discriminator, ..., SpectralVector, ...)`
            gives; nothing is changed in place.
        """
        if not self.config.spectral:
            return {}
        return {"heads": jax.vmap(Head.next_vectors)(self.heads)}
