"""ViT encoder of masked autoencoders (He 2022, arXiv:2111.06377)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.functional import Buffer
from rae_jax.layers.patch_embedding import PatchEmbedding
from rae_jax.layers.stack import scan_layers, stack_layers
from rae_jax.layers.vit_block import ViTBlock, layer_norm
from rae_jax.models.encoders.base import Encoder
from rae_jax.ops.patches import patch_grid
from rae_jax.ops.positions import resize_position_table, sincos_2d
from rae_jax.typing import Array, DTypeLike, Float, Int

_HUGGING_FACE_NAMES = {
    "hidden_size": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "patch_size": "patch_size",
    "image_size": "image_size",
    "layer_norm_eps": "layer_norm_eps",
}
_FIXED = {"model_type": "vit_mae", "hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}


@dataclasses.dataclass(frozen=True)
class MAEConfig:
    """Sizes of an MAE encoder; the defaults are ViT-B's.

    Attributes:
        hidden_size: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads.
        intermediate_size: Inner width of the feed-forward layers.
        patch_size: Side of a patch.
        image_size: Side of the square image that the position table is made for.
        layer_norm_eps: Epsilon of every LayerNorm.
    """

    hidden_size: int = 768
    depth: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    patch_size: int = 16
    image_size: int = 224
    layer_norm_eps: float = 1e-12

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the position table."""
        return patch_grid(self.image_size, self.image_size, self.patch_size)

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "MAEConfig":
        """Reads the contents of a `config.json` of model type `vit_mae`.

        Raises:
            ValueError: If a size is missing or the model differs in a way that is not supported.
        """
        missing = [name for name in _HUGGING_FACE_NAMES.values() if name not in config]
        if missing:
            raise ValueError(f"the MAE config lacks {', '.join(missing)}")
        for name, value in _FIXED.items():
            if config.get(name, value) != value:
                raise ValueError(f"MAE encoders need {name} {value!r}, got {config[name]!r}")
        return cls(**{ours: config[theirs] for ours, theirs in _HUGGING_FACE_NAMES.items()})

    def to_hugging_face(self) -> dict[str, Any]:
        """Contents of a `config.json` that `from_hugging_face` reads back."""
        sizes = {theirs: getattr(self, ours) for ours, theirs in _HUGGING_FACE_NAMES.items()}
        return {"architectures": ["ViTMAEModel"], **_FIXED, **sizes}


class MAEEncoder(Encoder):
    """Vision transformer with a class token and fixed sine-cosine positions.

    The final LayerNorm has no affine part. Initialisation is the one of MAE's published code:
    linear kernels xavier-uniform with zero bias, class token N(0, 0.02²).
    """

    def __init__(
        self,
        config: MAEConfig,
        *,
        dtype: DTypeLike,
        unroll: int = 1,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        """Builds the encoder.

        Args:
            config: Sizes.
            dtype: Compute dtype; features come out in float32.
            unroll: Blocks per iteration of the scan.
            remat: What the backward pass recomputes, see `scan_layers`.
            rngs: Source of the initial parameters.
        """
        self.config, self.dtype, self.unroll, self.remat = config, dtype, unroll, remat
        width = config.hidden_size
        positions = np.zeros((1, width), np.float32), sincos_2d(width, *config.grid)
        self.patch_embedding = PatchEmbedding(config.patch_size, 3, width, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (width,)))
        self.position_table = Buffer(jnp.asarray(np.concatenate(positions)))
        self.blocks = stack_layers(
            lambda layer_rngs: ViTBlock(
                width,
                config.num_heads,
                config.intermediate_size,
                epsilon=config.layer_norm_eps,
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
        return tokens[:, 1:].reshape(tokens.shape[0], *grid, -1)

    def hidden_states(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "L B N D"]:
        """Input of the first block, then every block's output, class token first, before the norm.

        In the compute dtype.
        """
        embedded = self._embed(pixels)
        _, outputs = self._run(embedded, keep_outputs=True)
        return jnp.concatenate([embedded[None], outputs])

    def encode_visible(
        self, pixels: Float[Array, "B H W 3"], visible: Int[Array, "B K"]
    ) -> Float[Array, "B N D"]:
        """Features of some patches alone: only these go through the blocks.

        Args:
            pixels: Normalised pixels.
            visible: Raster indices of the patches to keep, in the order wanted.

        Returns:
            Class token and visible patches, [B, 1 + K, D], after the final norm, float32.
        """
        embedded = self._embed(pixels)
        kept = jnp.take_along_axis(embedded[:, 1:], visible[..., None], axis=1)
        return self._normed(self._run(jnp.concatenate([embedded[:, :1], kept], axis=1)))

    def _embed(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B N D"]:
        grid = patch_grid(pixels.shape[1], pixels.shape[2], self.patch_size)
        table = self.position_table[...]
        positions = resize_position_table(table[1:], self.config.grid, grid)
        patches = self.patch_embedding(pixels).astype(self.dtype)
        patches = patches + positions[None].astype(self.dtype)
        first = (self.class_token[...] + table[0]).astype(self.dtype)
        first = jnp.broadcast_to(first, (pixels.shape[0], 1, self.hidden_size))
        return jnp.concatenate([first, patches], axis=1)

    def _run(self, tokens: Float[Array, "B N D"], *, keep_outputs: bool = False) -> Any:
        return scan_layers(
            lambda tokens, block: block(tokens),
            self.blocks,
            tokens,
            unroll=self.unroll,
            remat=self.remat,
            keep_outputs=keep_outputs,
        )

    def _normed(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        return self.norm(tokens.astype(jnp.float32))
