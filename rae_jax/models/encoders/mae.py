"""ViT encoder of masked autoencoders (He 2022, arXiv:2111.06377)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.functional import Buffer
from rae_jax.models.encoders.hugging_face import SIZES, ConfigFile
from rae_jax.models.encoders.vision_transformer import VisionTransformer, VisionTransformerConfig
from rae_jax.ops.positions import sincos_2d
from rae_jax.typing import Array, DTypeLike, Float, Int

_FILE = ConfigFile(
    title="MAE",
    architecture="ViTMAEModel",
    model_type="vit_mae",
    names={**SIZES, "intermediate_size": "intermediate_size"},
    fixed={"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3},
)


@dataclasses.dataclass(frozen=True)
class MAEConfig(VisionTransformerConfig):
    """Sizes of an MAE encoder; the defaults are ViT-B's, for images of 224 pixels.

    Attributes:
        layer_norm_eps: Epsilon of every LayerNorm.
        intermediate_size: Inner width of the feed-forward layers.
    """

    layer_norm_eps: float = 1e-12
    intermediate_size: int = 3072

    @property
    def inner_size(self) -> int:
        """Inner width of the feed-forward layers."""
        return self.intermediate_size

    @classmethod
    def from_hugging_face(cls, content: Mapping[str, Any]) -> "MAEConfig":
        """Reads the contents of a `config.json` of model type `vit_mae`.

        Raises:
            ValueError: If a size is missing or the model differs in a way that is not supported.
        """
        return cls(**_FILE.read(content))

    def to_hugging_face(self) -> dict[str, Any]:
        """Contents of a `config.json` that `from_hugging_face` reads back."""
        return _FILE.write(self)


class MAEEncoder(VisionTransformer):
    """Vision transformer with a class token and fixed sine-cosine positions.

    Initialisation is the one of MAE's published code: linear kernels xavier-uniform with zero
    bias, class token N(0, 0.02²).
    """

    config: MAEConfig

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
        width = config.hidden_size
        positions = np.zeros((1, width), np.float32), sincos_2d(width, *config.grid)
        super().__init__(
            config,
            Buffer(jnp.asarray(np.concatenate(positions))),
            num_registers=0,
            dtype=dtype,
            unroll=unroll,
            remat=remat,
            rngs=rngs,
        )

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
