"""DINOv2 encoders, with registers or without (arXiv:2304.07193, arXiv:2309.16588)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from rae_jax.layers.linear import normal_linear
from rae_jax.layers.vit_block import ViTStyle
from rae_jax.models.encoders.hugging_face import SIZES, ConfigFile
from rae_jax.models.encoders.vision_transformer import (
    TOKEN_SCALE,
    VisionTransformer,
    VisionTransformerConfig,
)
from rae_jax.typing import DTypeLike

_PLAIN = ConfigFile(
    title="DINOv2",
    architecture="Dinov2Model",
    model_type="dinov2",
    names={
        **SIZES,
        "mlp_ratio": "mlp_ratio",
        "use_swiglu": "use_swiglu_ffn",
        "layer_scale": "layerscale_value",
    },
    fixed={"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3},
)
_WITH_REGISTERS = dataclasses.replace(
    _PLAIN,
    architecture="Dinov2WithRegistersModel",
    model_type="dinov2_with_registers",
    names={**_PLAIN.names, "num_registers": "num_register_tokens"},
)


@dataclasses.dataclass(frozen=True)
class DINOv2Config(VisionTransformerConfig):
    """Sizes of a DINOv2 encoder; the defaults are those of ViT-B with registers.

    Attributes:
        patch_size: Side of a patch.
        image_size: Side of the square image that the position table is made for.
        num_registers: Register tokens; None is the model that was trained without. It resamples
            its position table without antialias, all others with.
        mlp_ratio: Inner over outer width of the feed-forward layers.
        use_swiglu: Whether these are SwiGLU, two thirds as wide (ViT-g).
        layer_scale: Gain of every residual branch at initialisation.
    """

    patch_size: int = 14
    image_size: int = 518
    num_registers: int | None = 4
    mlp_ratio: int | float = 4
    use_swiglu: bool = False
    layer_scale: float = 1.0

    @property
    def inner_size(self) -> int:
        """Inner width of the feed-forward layers."""
        width = int(self.hidden_size * self.mlp_ratio)
        # Two thirds, as a multiple of 8: as many parameters as without the gate.
        return (int(width * 2 / 3) + 7) // 8 * 8 if self.use_swiglu else width

    @classmethod
    def from_hugging_face(cls, content: Mapping[str, Any]) -> "DINOv2Config":
        """Reads the contents of a `config.json` of type `dinov2` or `dinov2_with_registers`.

        Raises:
            ValueError: If a size is missing or the model differs in a way that is not supported.
        """
        if content.get("model_type") == _PLAIN.model_type:
            return cls(**_PLAIN.read(content), num_registers=None)
        return cls(**_WITH_REGISTERS.read(content))

    def to_hugging_face(self) -> dict[str, Any]:
        """Contents of a `config.json` that `from_hugging_face` reads back."""
        return (_PLAIN if self.num_registers is None else _WITH_REGISTERS).write(self)


class DINOv2Encoder(VisionTransformer):
    """Vision transformer with class token, registers, learned positions and layer scale.

    Initialisation follows the published code: linear kernels, positions and tokens N(0, 0.02²).
    """

    config: DINOv2Config

    def __init__(
        self,
        config: DINOv2Config,
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
        self.antialias = config.num_registers is not None
        positions = TOKEN_SCALE * jax.random.normal(rngs.params(), (1 + rows * columns, width))
        super().__init__(
            config,
            nnx.Param(positions),
            num_registers=config.num_registers or 0,
            style=ViTStyle(
                use_swiglu=config.use_swiglu,
                layer_scale=config.layer_scale,
                linear=normal_linear,
            ),
            dtype=dtype,
            unroll=unroll,
            remat=remat,
            rngs=rngs,
        )
