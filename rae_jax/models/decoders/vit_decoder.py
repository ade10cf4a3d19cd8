"""ViT decoder from features to pixels (RAE, arXiv:2510.11690; MAE's decoder, arXiv:2111.06377)."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.functional import Buffer
from rae_jax.layers.linear import torch_linear
from rae_jax.layers.stack import scan_layers, stack_layers
from rae_jax.layers.vit_block import ViTBlock, ViTStyle, layer_norm
from rae_jax.ops.images import resize_bilinear
from rae_jax.ops.patches import unpatchify
from rae_jax.ops.positions import sincos_2d
from rae_jax.typing import Array, DTypeLike, Float


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder.

    Attributes:
        hidden_size: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads.
        intermediate_size: Inner width of the feed-forward layers.
        latent_channels: Width of the features that come in.
        grid: Native rows and columns of tokens; features on another grid are resized to it.
        patch_size: Side of the square of pixels that a token becomes.
        layer_norm_eps: Epsilon of every LayerNorm.
        position_extent: Range of the position table's places, see `sincos_2d`.
    """

    hidden_size: int
    depth: int
    num_heads: int
    intermediate_size: int
    latent_channels: int
    grid: tuple[int, int]
    patch_size: int = 16
    layer_norm_eps: float = 1e-12
    position_extent: float | None = None

    def positions(self) -> Float[np.ndarray, "N D"]:
        """The position table before training: zeros for the class token, then the grid."""
        table = sincos_2d(self.hidden_size, *self.grid, extent=self.position_extent)
        return np.concatenate([np.zeros((1, self.hidden_size), np.float32), table])


class ViTDecoder(nnx.Module):
    """Features to pixels by a pre-norm vision transformer with a class token.

    Initialisation is the published RAE code's, which leaves its linear layers as torch makes them:
    kernels and biases uniform within ±1/sqrt(fan-in); class token zero.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        dtype: DTypeLike,
        unroll: int = 1,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        """Builds the decoder.

        Args:
            config: Sizes.
            dtype: Compute dtype; pixels come out in float32.
            unroll: Blocks per iteration of the scan.
            remat: What the backward pass recomputes, see `scan_layers`.
            rngs: Source of the initial parameters.
        """
        self.config, self.dtype, self.unroll, self.remat = config, dtype, unroll, remat
        width = config.hidden_size
        self.embedding = torch_linear(config.latent_channels, width, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros(width))
        self.position_table = Buffer(jnp.asarray(config.positions()))
        self.blocks = stack_layers(
            lambda layer_rngs: ViTBlock(
                width,
                config.num_heads,
                config.intermediate_size,
                epsilon=config.layer_norm_eps,
                style=ViTStyle(linear=torch_linear),
                dtype=dtype,
                rngs=layer_rngs,
            ),
            config.depth,
            rngs,
        )
        self.norm = layer_norm(width, config.layer_norm_eps, rngs=rngs)
        self.prediction = torch_linear(width, 3 * config.patch_size**2, dtype=dtype, rngs=rngs)

    def __call__(self, features: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Pixels normalised by the encoder's image mean and deviation, not clipped, float32.

        Args:
            features: Features, not normalised by latent statistics. On another grid than the
                native one they are resized bilinearly after the embedding.
        """
        tokens = self._run(self._embed(features))
        patches = self.prediction(self.norm(tokens)[:, 1:]).astype(jnp.float32)
        return unpatchify(patches, self.config.grid, self.config.patch_size)

    def hidden_states(self, features: Float[Array, "B h w C"]) -> Float[Array, "L B N D"]:
        """Input of the first block, then every block's output, class token first.

        In the compute dtype.
        """
        embedded = self._embed(features)
        _, outputs = self._run(embedded, keep_outputs=True)
        return jnp.concatenate([embedded[None], outputs])

    def _embed(self, features: Float[Array, "B h w C"]) -> Float[Array, "B N D"]:
        channels = self.config.latent_channels
        if features.shape[-1] != channels:
            raise ValueError(f"the decoder takes {channels} channels, got {features.shape[-1]}")
        patches = self.embedding(features)
        if patches.shape[1:3] != self.config.grid:
            patches = resize_bilinear(patches, *self.config.grid)
        patches = patches.reshape(patches.shape[0], -1, patches.shape[-1]).astype(self.dtype)
        first = self.class_token[...].astype(self.dtype)
        first = jnp.broadcast_to(first, (patches.shape[0], 1, patches.shape[-1]))
        tokens = jnp.concatenate([first, patches], axis=1)
        return tokens + self.position_table[...][None].astype(self.dtype)

    def _run(self, tokens: Float[Array, "B N D"], *, keep_outputs: bool = False) -> Any:
        return scan_layers(
            lambda tokens, block: block(tokens),
            self.blocks,
            tokens,
            unroll=self.unroll,
            remat=self.remat,
            keep_outputs=keep_outputs,
        )
