"""Masked autoencoder: an MAE encoder with the pixel decoder that trains it (arXiv:2111.06377)."""

import jax
import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.linear import xavier_linear
from rae_jax.layers.stack import scan_layers, stack_layers
from rae_jax.layers.vit_block import ViTBlock, layer_norm
from rae_jax.models.encoders.mae import MAEEncoder
from rae_jax.ops.patches import patchify
from rae_jax.ops.positions import sincos_2d
from rae_jax.typing import Array, DTypeLike, Float, Key


class MaskedAutoencoder(nnx.Module):
    """Predicts the pixels of hidden patches from the visible ones.

    Only the encoder is kept after training. As in the paper, the loss is the mean square over
    hidden patches alone; unlike its default, pixels are not normalised patch by patch, since flat
    patches of drawings have no variance to divide by.
    """

    def __init__(
        self,
        encoder: MAEEncoder,
        *,
        decoder_hidden_size: int,
        decoder_depth: int,
        decoder_num_heads: int,
        mask_ratio: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Joins encoder and pixel decoder.

        Args:
            encoder: Trained here.
            decoder_hidden_size: Width of the pixel decoder; its feed-forward layers are four
                times as wide.
            decoder_depth: Its blocks.
            decoder_num_heads: Its attention heads.
            mask_ratio: Share of patches that are hidden, in (0, 1).
            dtype: Compute dtype.
            rngs: Source of the initial parameters.

        Raises:
            ValueError: The ratio leaves no patch visible or none hidden.
        """
        self.num_patches = encoder.config.grid[0] * encoder.config.grid[1]
        self.num_visible = round(self.num_patches * (1 - mask_ratio))
        if not 0 < self.num_visible < self.num_patches:
            raise ValueError(
                f"mask_ratio must leave some of {self.num_patches} patches visible and hide some, "
                f"got {mask_ratio}"
            )
        width, epsilon = decoder_hidden_size, encoder.config.layer_norm_eps
        self.encoder, self.dtype = encoder, dtype
        self.norm_scale = nnx.Param(jnp.ones(encoder.hidden_size))
        self.norm_bias = nnx.Param(jnp.zeros(encoder.hidden_size))
        self.embedding = xavier_linear(encoder.hidden_size, width, dtype=dtype, rngs=rngs)
        self.mask_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (width,)))
        self.blocks = stack_layers(
            lambda layer_rngs: ViTBlock(
                width, decoder_num_heads, 4 * width, epsilon=epsilon, dtype=dtype, rngs=layer_rngs
            ),
            decoder_depth,
            rngs,
        )
        self.norm = layer_norm(width, epsilon, rngs=rngs)
        self.prediction = xavier_linear(width, 3 * encoder.patch_size**2, dtype=dtype, rngs=rngs)

    def loss(self, pixels: Float[Array, "B H W 3"], key: Key[Array, ""]) -> Float[Array, ""]:
        """Mean squared error over hidden patches.

        Args:
            pixels: Normalised pixels of the encoder's native size.
            key: Draws which patches are hidden, for each image anew.
        """
        batch = pixels.shape[0]
        order = jnp.argsort(jax.random.uniform(key, (batch, self.num_patches)), axis=1)
        tokens = self.encoder.encode_visible(pixels, order[:, : self.num_visible])
        scale, bias = self.norm_scale[...][None, None], self.norm_bias[...][None, None]
        tokens = self.embedding(tokens * scale + bias)
        hidden = jnp.broadcast_to(
            self.mask_token[...].astype(self.dtype),
            (batch, self.num_patches - self.num_visible, tokens.shape[-1]),
        )
        shuffled = jnp.concatenate([tokens[:, 1:], hidden], axis=1)
        back = jnp.argsort(order, axis=1)[..., None]
        patches = jnp.take_along_axis(shuffled, back, axis=1)
        positions = sincos_2d(tokens.shape[-1], *self.encoder.config.grid)
        patches = patches + jnp.asarray(positions, self.dtype)[None]
        tokens = scan_layers(
            lambda tokens, block: block(tokens),
            self.blocks,
            jnp.concatenate([tokens[:, :1], patches], axis=1),
        )
        predicted = self.prediction(self.norm(tokens)[:, 1:]).astype(jnp.float32)
        error = jnp.square(predicted - patchify(pixels, self.encoder.patch_size)).mean(axis=-1)
        is_hidden = jnp.argsort(order, axis=1) >= self.num_visible
        return jnp.sum(error * is_hidden.astype(jnp.float32)) / jnp.sum(
            is_hidden, dtype=jnp.float32
        )
