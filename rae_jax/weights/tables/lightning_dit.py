"""LightningDiT as bytetriper/RAE saves it (stage2/models/lightningDiT.py)."""

from rae_jax.models.denoisers.lightning_dit import LightningDiTConfig
from rae_jax.weights.table import Rule, WeightTable, conv_patch, squeeze
from rae_jax.weights.tables import adaln_layers


def lightning_dit_table(config: LightningDiTConfig) -> WeightTable:
    """Rows for a LightningDiT of these sizes."""
    patch = conv_patch(config.patch_size)
    rules = (
        *adaln_layers.conditions(),
        Rule("x_embedder.proj.weight", "embedding.projection.kernel", patch),
        Rule("x_embedder.proj.bias", "embedding.projection.bias"),
        Rule("pos_embed", "position_table", squeeze(1)),
        *adaln_layers.blocks("blocks", config.style),
        *adaln_layers.output(config.style),
    )
    return WeightTable(
        rules,
        ignored_source=(adaln_layers.ROTARY_TABLES,),
        optional_target=("position_table",),
    )
