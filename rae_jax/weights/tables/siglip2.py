"""Files of SigLIP and SigLIP2 as the transformers library writes them."""

import re
from collections.abc import Iterable

from rae_jax.weights.table import Rule, WeightTable
from rae_jax.weights.tables.vit_layers import blocks, patch_embedding

TOWER = "vision_model."


def siglip2_prefix(keys: Iterable[str]) -> str:
    """Prefix of the image tower: none if transformers 5 wrote it alone, else "vision_model."."""
    return TOWER if any(key.startswith(TOWER) for key in keys) else ""


def siglip2_table(patch_size: int, prefix: str = TOWER) -> WeightTable:
    """Rows of `SigLIP2Encoder`.

    The final LayerNorm's affine part, the pooling head and the text tower are not used.

    Args:
        patch_size: Side of a patch.
        prefix: See `siglip2_prefix`.
    """
    rules = (
        *patch_embedding(prefix + "embeddings.patch_embedding", patch_size),
        Rule(prefix + "embeddings.position_embedding.weight", "position_table"),
        *blocks(
            prefix + "encoder.layers",
            [f"self_attn.{name}_proj" for name in "qkv"],
            {"self_attn.out_proj": "attention.out", "mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"},
            {"layer_norm1": "norm_1", "layer_norm2": "norm_2"},
        ),
    )
    start, whole = re.escape(prefix), re.escape(prefix.removesuffix(TOWER))
    unused = (
        rf"{start}post_layernorm\.(weight|bias)",
        rf"{start}head\..*",
        rf"{whole}text_model\..*",
        rf"{whole}logit_(scale|bias)",
    )
    return WeightTable(rules, ignored_source=unused)
