"""DiTDH as `stage2_model.pt` of the RAE release holds it (bytetriper/RAE, stage2/models/DDT.py)."""

from rae_jax.models.denoisers.dit_dh import DiTDHConfig
from rae_jax.weights.table import IDENTITY, LINEAR, Rule, WeightTable, conv_patch, squeeze


def dit_dh_table(config: DiTDHConfig) -> WeightTable:
    """Rows for a DiTDH of these sizes; the file counts backbone and head blocks in one row."""
    patch = conv_patch(config.patch_size)
    rules = [
        *_linear("t_embedder.mlp.0", "time_embedding.up"),
        *_linear("t_embedder.mlp.2", "time_embedding.out"),
        Rule("t_embedder.W", "time_embedding.frequencies"),
        Rule("y_embedder.embedding_table.weight", "label_embedding.table"),
        *_blocks("backbone", 0, config),
        *_blocks("head", config.backbone_depth, config),
        *_linear("final_layer.adaLN_modulation.1", "output.modulation"),
        *_linear("final_layer.linear", "output.linear"),
    ]
    for source, target in (("s_embedder", "backbone"), ("x_embedder", "head")):
        rules += [
            Rule(f"{source}.proj.weight", f"{target}_embedding.projection.kernel", patch),
            Rule(f"{source}.proj.bias", f"{target}_embedding.projection.bias"),
        ]
    if config.use_position_embedding:
        rules.append(Rule("pos_embed", "position_table", squeeze(1)))
    if config.backbone_hidden_size != config.head_hidden_size:
        rules += _linear("s_projector", "state_projection")
    if config.style.use_rms_norm:
        rules.append(Rule("final_layer.norm_final.weight", "output.norm.scale"))
    return WeightTable(
        tuple(rules),
        ignored_source=(r"(enc|dec)_feat_rope\.freqs_(cos|sin)",),
        optional_target=("position_table",),
    )


def _linear(source: str, target: str, first_layer: int = 0) -> list[Rule]:
    return [
        Rule(f"{source}.weight", f"{target}.kernel", LINEAR, first_layer),
        Rule(f"{source}.bias", f"{target}.bias", IDENTITY, first_layer),
    ]


def _blocks(target: str, first: int, config: DiTDHConfig) -> list[Rule]:
    style, source = config.style, "blocks.{i}"
    names = {"attn.qkv": "attention.qkv", "attn.proj": "attention.out"}
    names["adaLN_modulation.1"] = "modulation"
    if style.use_swiglu:
        names |= {"mlp.w12": "mlp.gate_up", "mlp.w3": "mlp.down"}
    else:
        names |= {"mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}
    rules = []
    for theirs, ours in names.items():
        rules += _linear(f"{source}.{theirs}", f"{target}.{ours}", first)
    gains = {}
    if style.use_rms_norm:
        gains |= {"norm1.weight": "norm_1.scale", "norm2.weight": "norm_2.scale"}
    if style.use_qk_norm:
        gains |= {
            "attn.q_norm.weight": "attention.query_norm.scale",
            "attn.k_norm.weight": "attention.key_norm.scale",
        }
        if not style.use_rms_norm:
            gains |= {
                "attn.q_norm.bias": "attention.query_norm.bias",
                "attn.k_norm.bias": "attention.key_norm.bias",
            }
    rules += [
        Rule(f"{source}.{theirs}", f"{target}.{ours}", IDENTITY, first)
        for theirs, ours in gains.items()
    ]
    return rules
