"""The trunk that the encoders share: patches, positions, special tokens, blocks, final norm."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.patch_embedding import PatchEmbedding
from rae_jax.layers.stack import scan_layers, stack_layers
from rae_jax.layers.vit_block import PLAIN, ViTBlock, ViTStyle, layer_norm
from rae_jax.models.encoders.base import Encoder
from rae_jax.ops.patches import patch_grid
from rae_jax.ops.positions import resize_position_table
from rae_jax.typing import Array, DTypeLike, Float

TOKEN_SCALE = 0.02
"""Deviation of special tokens at initialisation."""


@dataclasses.dataclass(frozen=True)
class VisionTransformerConfig(abc.ABC):
    """Sizes that every encoder has; the defaults are ViT-B's.

    Attributes:
        hidden_size: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads.
        patch_size: Side of a patch.
        image_size: Side of the square image that the position table is made for; the table
            covers the whole patches in it.
        layer_norm_eps: Epsilon of every LayerNorm.
    """

    hidden_size: int = 768
    depth: int = 12
    num_heads: int = 12
    patch_size: int = 16
    image_size: int = 224
    layer_norm_eps: float = 1e-6

    @property
    @abc.abstractmethod
    def inner_size(self) -> int:
        """Inner width of the feed-forward layers."""

    @classmethod
    @abc.abstractmethod
    def from_hugging_face(cls, content: Mapping[str, Any]) -> "VisionTransformerConfig":
        """Reads the contents of a `config.json` of the transformers library."""

    @abc.abstractmethod
    def to_hugging_face(self) -> dict[str, Any]:
        """Contents of a `config.json` that `from_hugging_face` reads back."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the position table."""
        side = self.image_size // self.patch_size
        return side, side


class VisionTransformer(Encoder):
    """Pre-norm vision transformer whose final LayerNorm has no affine part.

    Tokens are [class token, registers, patches], of which an encoder has what it needs. Positions
    are added to class token and patches.
    """

    # Whether the position table is resampled with antialias.
    antialias = False

    def __init__(
        self,
        config: VisionTransformerConfig,
        positions: nnx.Variable,
        *,
        num_registers: int | None,
        style: ViTStyle = PLAIN,
        dtype: DTypeLike,
        unroll: int,
        remat: str,
        rngs: nnx.Rngs,
    ):
        """Builds the encoder.

        Args:
            config: Sizes.
            positions: Table of one row for the class token, if there is one, and one per cell of
                `config.grid`.
            num_registers: Register tokens after the class token; None makes an encoder without
                either.
            style: What the blocks consist of.
            dtype: Compute dtype; features come out in float32.
            unroll: Blocks per iteration of the scan.
            remat: What the backward pass recomputes, see `scan_layers`.
            rngs: Source of the initial parameters.
        """
        self.config, self.dtype, self.unroll, self.remat = config, dtype, unroll, remat
        width = config.hidden_size
        self.patch_embedding = PatchEmbedding(
            config.patch_size, 3, width, linear=style.linear, dtype=dtype, rngs=rngs
        )

        def tokens(*shape: int) -> nnx.Param:
            return nnx.Param(TOKEN_SCALE * jax.random.normal(rngs.params(), shape))

        self.class_token = nnx.data(None if num_registers is None else tokens(width))
        self.registers = nnx.data(tokens(num_registers, width) if num_registers else None)
        self.position_table = positions
        self.blocks = stack_layers(
            lambda layer_rngs: ViTBlock(
                width,
                config.num_heads,
                config.inner_size,
                epsilon=config.layer_norm_eps,
                style=style,
                dtype=dtype,
                rngs=layer_rngs,
            ),
            config.depth,
            rngs,
        )
        self.norm = layer_norm(width, config.layer_norm_eps, affine=False, rngs=rngs)

    @property
    def patch_size(self) -> int:
        """Side of the square of pixels behind one feature."""
        return self.config.patch_size

    @property
    def hidden_size(self) -> int:
        """Width of the features."""
        return self.config.hidden_size

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.config.depth

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the patches: class token and registers."""
        registers = 0 if self.registers is None else self.registers.shape[0]
        return registers + (self.class_token is not None)

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        """Features of whole images.

        Args:
            pixels: Normalised by the encoder's image mean and deviation; the patch size must
                divide both sides. Other sizes than the native one resample the position table.

        Returns:
            Patch tokens after the final norm, in raster order, float32.
        """
        grid = patch_grid(pixels.shape[1], pixels.shape[2], self.patch_size)
        tokens = self._normed(self._run(self._embed(pixels)))
        return tokens[:, self.num_prefix_tokens :].reshape(tokens.shape[0], *grid, -1)

    def hidden_states(
        self, pixels: Float[Array, "B H W 3"], layers: Sequence[int] | None = None
    ) -> Float[Array, "L B N D"]:
        """All tokens between the blocks, special tokens first, before the final norm.

        Blocks after the last layer wanted do not run, and only layers wanted are kept in memory.

        Args:
            pixels: As for features.
            layers: Which to give, in the order wanted: 0 is the input of the first block, i the
                output of the i-th, negative ones count from the last. None gives all
                `depth + 1`.

        Returns:
            States in the compute dtype.

        Raises:
            ValueError: If there is no such layer.
        """
        count = self.depth + 1
        layers = range(count) if layers is None else layers
        if not layers or not all(-count <= layer < count for layer in layers):
            raise ValueError(
                f"layers must be some of 0 to {self.depth} or {-count} to -1, got {list(layers)}"
            )
        wanted = [layer % count for layer in layers]
        kept = sorted(set(wanted))
        # Row of `kept` that each block's output goes to; one past the end is dropped.
        rows = [kept.index(i) if i in kept else len(kept) for i in range(1, kept[-1] + 1)]
        tokens = self._embed(pixels)
        states = jnp.zeros((len(kept), *tokens.shape), tokens.dtype)
        if kept[0] == 0:
            states = states.at[0].set(tokens)
        if rows:
            states = self._run_and_keep(tokens, states, rows)
        return states[np.array([kept.index(layer) for layer in wanted])]

    def _run_and_keep(self, tokens: Array, states: Array, rows: Sequence[int]) -> Array:
        def body(carry: tuple[Array, Array], layer: tuple[ViTBlock, Array]) -> tuple[Array, Array]:
            (tokens, states), (block, row) = carry, layer
            tokens = block(tokens)
            return tokens, states.at[row].set(tokens, mode="drop")

        blocks = jax.tree.map(lambda leaf: leaf[: len(rows)], self.blocks)
        layers = blocks, jnp.array(rows, jnp.int32)
        carry = tokens, states
        return scan_layers(body, layers, carry, unroll=self.unroll, remat=self.remat)[1]

    def _embed(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B N D"]:
        grid = patch_grid(pixels.shape[1], pixels.shape[2], self.patch_size)
        table = self.position_table[...]
        special = int(self.class_token is not None)
        positions = resize_position_table(
            table[special:], self.config.grid, grid, antialias=self.antialias
        )
        patches = self.patch_embedding(pixels).astype(self.dtype)
        patches = patches + positions[None].astype(self.dtype)
        if self.class_token is None:
            return patches
        prefix = (self.class_token[...] + table[0])[None]
        if self.registers is not None:
            prefix = jnp.concatenate([prefix, self.registers[...]])
        prefix = jnp.broadcast_to(prefix.astype(self.dtype), (pixels.shape[0], *prefix.shape))
        return jnp.concatenate([prefix, patches], axis=1)

    def _run(self, tokens: Float[Array, "B N D"]) -> Any:
        return scan_layers(
            lambda tokens, block: block(tokens),
            self.blocks,
            tokens,
            unroll=self.unroll,
            remat=self.remat,
        )

    def _normed(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        return self.norm(tokens.astype(jnp.float32))
