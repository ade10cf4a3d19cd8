"""Files of DINOv2 encoders as the transformers library writes them."""

import re

from rae_jax.models.encoders.dinov2 import DINOv2Config
from rae_jax.weights.table import Rule, WeightTable, squeeze
from rae_jax.weights.tables.vit_layers import (
    Style,
    attention_names,
    blocks,
    fused_linear,
    patch_embedding,
)


def dinov2_table(
    config: DINOv2Config, prefix: str = "", style: Style = "transformers4"
) -> WeightTable:
    """Rows of `DINOv2Encoder`.

    The final LayerNorm's affine part and the mask token are not used.

    Args:
        config: Sizes.
        prefix: Before every entry.
        style: Whose names the blocks have.
    """
    embeddings, layer = prefix + "embeddings.", prefix + "encoder.layer"
    attention, out = attention_names(style)
    layers = {out: "attention.out"}
    gated = ()
    if not config.use_swiglu:
        layers |= {"mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}
    elif style == "transformers4":
        layers |= {"mlp.weights_in": "mlp.gate_up", "mlp.weights_out": "mlp.down"}
    else:
        layers |= {"mlp.down_proj": "mlp.down"}
        halves = (f"{layer}.{{i}}.mlp.{name}_proj" for name in ("gate", "up"))
        gated = fused_linear(halves, "blocks.mlp.gate_up")
    registers = Rule(embeddings + "register_tokens", "registers", squeeze(1))
    rules = (
        Rule(embeddings + "cls_token", "class_token", squeeze(2)),
        *((registers,) if config.num_registers else ()),
        Rule(embeddings + "position_embeddings", "position_table", squeeze(1)),
        *patch_embedding(embeddings + "patch_embeddings.projection", config.patch_size),
        *blocks(layer, attention, layers, {"norm1": "norm_1", "norm2": "norm_2"}),
        *gated,
        Rule(layer + ".{i}.layer_scale1.lambda1", "blocks.scale_1.gain"),
        Rule(layer + ".{i}.layer_scale2.lambda1", "blocks.scale_2.gain"),
    )
    start = re.escape(prefix)
    unused = (rf"{start}layernorm\.(weight|bias)", rf"{start}embeddings\.mask_token")
    return WeightTable(rules, ignored_source=unused)
