"""Files of MAE encoders as the transformers library writes them."""

import re
from collections.abc import Iterable

from rae_jax.weights.table import Rule, WeightTable, squeeze
from rae_jax.weights.tables.vit_layers import Style, mae_blocks, patch_embedding


def mae_prefix(keys: Iterable[str]) -> str:
    """Prefix of the encoder's entries: "vit." in files that hold the pixel decoder too, or ""."""
    return "vit." if any(key.startswith("vit.") for key in keys) else ""


def mae_table(patch_size: int, prefix: str = "", style: Style = "transformers4") -> WeightTable:
    """Rows of `MAEEncoder`.

    The final LayerNorm's affine part, the pixel decoder and its mask token are not used.

    Args:
        patch_size: Side of a patch.
        prefix: See `mae_prefix`.
        style: Whose names the blocks have.
    """
    embeddings = prefix + "embeddings."
    rules = (
        Rule(embeddings + "cls_token", "class_token", squeeze(2)),
        Rule(embeddings + "position_embeddings", "position_table", squeeze(1)),
        *patch_embedding(embeddings + "patch_embeddings.projection", patch_size),
        *mae_blocks(prefix, style),
    )
    start = re.escape(prefix)
    whole = re.escape(prefix.removesuffix("vit."))
    unused = (
        rf"({start}|{whole})layernorm\.(weight|bias)",
        rf"{whole}decoder\..*",
        rf"{whole}mask_token",
    )
    return WeightTable(rules, ignored_source=unused)
