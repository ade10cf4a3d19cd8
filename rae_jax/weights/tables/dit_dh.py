"""DiTDH as `stage2_model.pt` of the RAE release holds it (bytetriper/RAE, stage2/models/DDT.py)."""

from rae_jax.models.denoisers.dit_dh import DiTDHConfig
from rae_jax.weights.table import Rule, WeightTable, conv_patch, squeeze
from rae_jax.weights.tables import adaln_layers


def dit_dh_table(config: DiTDHConfig) -> WeightTable:
    """Rows for a DiTDH of these sizes; the file counts backbone and head blocks in one row."""
    rules = [
        *adaln_layers.conditions(),
        *adaln_layers.blocks("backbone", config.style),
        *adaln_layers.blocks("head", config.style, config.backbone_depth),
        *adaln_layers.output(config.style),
    ]
    for source, target in (("s_embedder", "backbone"), ("x_embedder", "head")):
        kernel = f"{target}_embedding.projection.kernel"
        rules += [
            Rule(f"{source}.proj.weight", kernel, conv_patch(config.patch_size)),
            Rule(f"{source}.proj.bias", f"{target}_embedding.projection.bias"),
        ]
    if config.use_position_embedding:
        rules.append(Rule("pos_embed", "position_table", squeeze(1)))
    if config.backbone_hidden_size != config.head_hidden_size:
        rules += adaln_layers.linear("s_projector", "state_projection")
    return WeightTable(
        tuple(rules),
        ignored_source=(adaln_layers.ROTARY_TABLES,),
        optional_target=("position_table",),
    )
