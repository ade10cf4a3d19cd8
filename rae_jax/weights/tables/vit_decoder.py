"""Files of RAE decoders."""

from rae_jax.weights.table import IDENTITY, LINEAR, Rule, WeightTable, squeeze
from rae_jax.weights.tables.vit_layers import vit_layers

VIT_DECODER = WeightTable(
    rules=(
        Rule("trainable_cls_token", "class_token", squeeze(2)),
        Rule("decoder_pos_embed", "position_table", squeeze(1)),
        Rule("decoder_embed.weight", "embedding.kernel", LINEAR),
        Rule("decoder_embed.bias", "embedding.bias", IDENTITY),
        *vit_layers("decoder_layers"),
        Rule("decoder_norm.weight", "norm.scale", IDENTITY),
        Rule("decoder_norm.bias", "norm.bias", IDENTITY),
        Rule("decoder_pred.weight", "prediction.kernel", LINEAR),
        Rule("decoder_pred.bias", "prediction.bias", IDENTITY),
    ),
    # Some files leave the sine-cosine table to the model's construction.
    optional_target=("position_table",),
)
"""Rows of `ViTDecoder`."""
