"""Files of MAE encoders as the transformers library writes them."""

from collections.abc import Iterable

from rae_jax.weights.table import IDENTITY, Rule, WeightTable, conv_patch, squeeze
from rae_jax.weights.tables.vit_layers import vit_layers


def mae_prefix(keys: Iterable[str]) -> str:
    """Prefix of the encoder's entries: "vit." in files that hold the pixel decoder too, or ""."""
    return "vit." if any(key.startswith("vit.") for key in keys) else ""


def mae_table(patch_size: int, prefix: str = "") -> WeightTable:
    """Rows of `MAEEncoder`.

    The final LayerNorm's affine part, the pixel decoder and its mask token are not used.

    Args:
        patch_size: Side of a patch.
        prefix: See `mae_prefix`.
    """
    embeddings = prefix + "embeddings."
    projection = embeddings + "patch_embeddings.projection."
    rules = (
        Rule(embeddings + "cls_token", "class_token", squeeze(2)),
        Rule(embeddings + "position_embeddings", "position_table", squeeze(1)),
        Rule(projection + "weight", "patch_embedding.projection.kernel", conv_patch(patch_size)),
        Rule(projection + "bias", "patch_embedding.projection.bias", IDENTITY),
        *vit_layers(prefix + "encoder.layer"),
    )
    unused = (r"(vit\.)?layernorm\.(weight|bias)", r"decoder\..*", r"mask_token")
    return WeightTable(rules, ignored_source=unused)
