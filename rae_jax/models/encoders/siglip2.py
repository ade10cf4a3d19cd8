"""Image towers of SigLIP and SigLIP 2 at a fixed resolution (arXiv:2303.15343, 2502.14786)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from rae_jax.layers.mlp import tanh_gelu
from rae_jax.layers.vit_block import ViTStyle
from rae_jax.models.encoders.hugging_face import SIZES, ConfigFile
from rae_jax.models.encoders.vision_transformer import VisionTransformer, VisionTransformerConfig
from rae_jax.typing import DTypeLike

_FILE = ConfigFile(
    title="SigLIP2",
    architecture="SiglipVisionModel",
    model_type="siglip_vision_model",
    names={**SIZES, "intermediate_size": "intermediate_size"},
    fixed={"hidden_act": "gelu_pytorch_tanh", "num_channels": 3},
    # A file of both towers leaves out what transformers has as default.
    complete=False,
)


@dataclasses.dataclass(frozen=True)
class SigLIP2Config(VisionTransformerConfig):
    """Sizes of a SigLIP2 encoder; the defaults are those of transformers' `SiglipVisionConfig`.

    Attributes:
        intermediate_size: Inner width of the feed-forward layers.
    """

    intermediate_size: int = 3072

    @property
    def inner_size(self) -> int:
        """Inner width of the feed-forward layers."""
        return self.intermediate_size

    @classmethod
    def from_hugging_face(cls, content: Mapping[str, Any]) -> "SigLIP2Config":
        """Reads the contents of a `config.json` of type `siglip` or `siglip_vision_model`.

        A file of type `siglip` describes both towers; its `vision_config` is read.

        Raises:
            ValueError: If the model differs in a way that is not supported.
        """
        if content.get("model_type") == "siglip":
            content = content.get("vision_config") or {}
        return cls(**_FILE.read(content))

    def to_hugging_face(self) -> dict[str, Any]:
        """Contents of a `config.json` of the image tower alone, without the pooling head."""
        return {**_FILE.write(self), "vision_use_head": False}


class SigLIP2Encoder(VisionTransformer):
    """Vision transformer of patches alone, with learned positions and the tanh form of GELU.

    The pooling head is not part of it. Initialisation follows the published code: linear kernels
    xavier-uniform with zero bias, positions N(0, 1 / width).
    """

    config: SigLIP2Config

    def __init__(
        self,
        config: SigLIP2Config,
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
        width, (rows, columns) = config.hidden_size, config.grid
        positions = width**-0.5 * jax.random.normal(rngs.params(), (rows * columns, width))
        super().__init__(
            config,
            nnx.Param(positions),
            num_registers=None,
            style=ViTStyle(activation=tanh_gelu),
            dtype=dtype,
            unroll=unroll,
            remat=remat,
            rngs=rngs,
        )
