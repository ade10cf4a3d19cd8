"""Rows of the layers that the published diffusion transformers name alike in their files."""

from rae_jax.layers.adaln_block import BlockStyle
from rae_jax.weights.table import IDENTITY, LINEAR, Rule

ROTARY_TABLES = r"(enc_|dec_)?feat_rope\.freqs_(cos|sin)"
"""Entries that are not read: the tables follow from the sizes."""


def linear(source: str, target: str, first_layer: int = 0) -> tuple[Rule, ...]:
    """Rows of one linear layer."""
    return (
        Rule(f"{source}.weight", f"{target}.kernel", LINEAR, first_layer),
        Rule(f"{source}.bias", f"{target}.bias", IDENTITY, first_layer),
    )


def conditions() -> tuple[Rule, ...]:
    """Rows of the embeddings of time and label."""
    return (
        Rule("t_embedder.W", "time_embedding.frequencies"),
        *linear("t_embedder.mlp.0", "time_embedding.up"),
        *linear("t_embedder.mlp.2", "time_embedding.out"),
        Rule("y_embedder.embedding_table.weight", "label_embedding.table"),
    )


def blocks(target: str, style: BlockStyle, first_layer: int = 0) -> tuple[Rule, ...]:
    """Rows of a stack of `AdaLNBlock`, whose first block is `blocks.<first_layer>` in the file."""
    names = {
        "attn.qkv": "attention.qkv",
        "attn.proj": "attention.out",
        "adaLN_modulation.1": "modulation",
    }
    if style.use_swiglu:
        names |= {"mlp.w12": "mlp.gate_up", "mlp.w3": "mlp.down"}
    else:
        names |= {"mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}
    rows = [
        row
        for source, layer in names.items()
        for row in linear(f"blocks.{{i}}.{source}", f"{target}.{layer}", first_layer)
    ]
    vectors = {}
    if style.use_rms_norm:
        vectors |= {"norm1.weight": "norm_1.scale", "norm2.weight": "norm_2.scale"}
    if style.use_qk_norm:
        leaves = {"weight": "scale"} if style.use_rms_norm else {"weight": "scale", "bias": "bias"}
        for source, leaf in leaves.items():
            vectors[f"attn.q_norm.{source}"] = f"attention.query_norm.{leaf}"
            vectors[f"attn.k_norm.{source}"] = f"attention.key_norm.{leaf}"
    rows += [
        Rule(f"blocks.{{i}}.{source}", f"{target}.{layer}", IDENTITY, first_layer)
        for source, layer in vectors.items()
    ]
    return tuple(rows)


def output(style: BlockStyle) -> tuple[Rule, ...]:
    """Rows of an `AdaLNOutput` called `output`."""
    norm = (Rule("final_layer.norm_final.weight", "output.norm.scale"),)
    return (
        *(norm if style.use_rms_norm else ()),
        *linear("final_layer.adaLN_modulation.1", "output.modulation"),
        *linear("final_layer.linear", "output.linear"),
    )
