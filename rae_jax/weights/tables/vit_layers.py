"""Rows of the ViT blocks that MAE encoders and RAE decoders name alike in their files."""

from rae_jax.weights.table import FUSED_BIAS, FUSED_LINEAR, IDENTITY, LINEAR, Rule


def vit_layers(layers: str) -> tuple[Rule, ...]:
    """Rows for files whose blocks are called `<layers>.<index>`, into a stack called `blocks`."""
    block = layers + ".{i}."
    attention = block + "attention.attention."
    projections = ("query", "key", "value")
    rows = [
        Rule(
            tuple(f"{attention}{name}.weight" for name in projections),
            "blocks.attention.qkv.kernel",
            FUSED_LINEAR,
        ),
        Rule(
            tuple(f"{attention}{name}.bias" for name in projections),
            "blocks.attention.qkv.bias",
            FUSED_BIAS,
        ),
    ]
    linear = {
        "attention.output.dense": "attention.out",
        "intermediate.dense": "mlp.up",
        "output.dense": "mlp.down",
    }
    norms = {"layernorm_before": "norm_1", "layernorm_after": "norm_2"}
    for source, target in linear.items():
        rows += [
            Rule(f"{block}{source}.weight", f"blocks.{target}.kernel", LINEAR),
            Rule(f"{block}{source}.bias", f"blocks.{target}.bias", IDENTITY),
        ]
    for source, target in norms.items():
        rows += [
            Rule(f"{block}{source}.weight", f"blocks.{target}.scale", IDENTITY),
            Rule(f"{block}{source}.bias", f"blocks.{target}.bias", IDENTITY),
        ]
    return tuple(rows)
