"""Files of RAE decoders."""

from collections.abc import Iterable

from rae_jax.weights.table import Rule, WeightTable, squeeze
from rae_jax.weights.tables.vit_layers import attention_names, blocks, linear, norm

_QKV, _OUT = attention_names("transformers4")


def vit_decoder_rules(
    prefix: str = "", attention: Iterable[str] = tuple(_QKV), attention_out: str = _OUT
) -> tuple[Rule, ...]:
    """Rows of `ViTDecoder` but for its position table.

    Args:
        prefix: Before every entry.
        attention: Names in a block of the projections to queries, keys and values.
        attention_out: Name in a block of the output layer of its attention.
    """
    layers = {
        attention_out: "attention.out",
        "intermediate.dense": "mlp.up",
        "output.dense": "mlp.down",
    }
    norms = {"layernorm_before": "norm_1", "layernorm_after": "norm_2"}
    return (
        Rule(prefix + "trainable_cls_token", "class_token", squeeze(2)),
        *linear(prefix + "decoder_embed", "embedding"),
        *blocks(prefix + "decoder_layers", attention, layers, norms),
        *norm(prefix + "decoder_norm", "norm"),
        *linear(prefix + "decoder_pred", "prediction"),
    )


VIT_DECODER = WeightTable(
    rules=(
        *vit_decoder_rules(),
        Rule("decoder_pos_embed", "position_table", squeeze(1)),
    ),
    # Some files leave the sine-cosine table to the model's construction.
    optional_target=("position_table",),
)
"""Rows of `ViTDecoder` for files of the RAE release."""
