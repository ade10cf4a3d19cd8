"""Rows of vision transformers that several models name alike in their files."""

from collections.abc import Iterable, Mapping
from typing import Literal

from rae_jax.weights.table import FUSED_BIAS, FUSED_LINEAR, IDENTITY, LINEAR, Rule, conv_patch

Style = Literal["transformers4", "transformers5"]
"""Whose names a file uses.

"transformers4" are the names in every file that transformers writes, version 5 included.
"transformers5" are those of the modules in version 5, which diffusers writes there.
"""

_STYLE_MARK = ".attention.q_proj."

_MAE_LAYERS = {
    "attention.output.dense": "attention.out",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
}
_MAE_NORMS = {"layernorm_before": "norm_1", "layernorm_after": "norm_2"}


def find_style(keys: Iterable[str]) -> Style:
    """The style of a file of DINOv2 or MAE with these entries."""
    return "transformers5" if any(_STYLE_MARK in key for key in keys) else "transformers4"


def linear(source: str, target: str) -> tuple[Rule, ...]:
    """Rows of one linear layer."""
    return (
        Rule(f"{source}.weight", f"{target}.kernel", LINEAR),
        Rule(f"{source}.bias", f"{target}.bias", IDENTITY),
    )


def fused_linear(sources: Iterable[str], target: str) -> tuple[Rule, ...]:
    """Rows of several linear layers that one here computes, outputs in their order."""
    sources = tuple(sources)
    return (
        Rule(tuple(f"{name}.weight" for name in sources), f"{target}.kernel", FUSED_LINEAR),
        Rule(tuple(f"{name}.bias" for name in sources), f"{target}.bias", FUSED_BIAS),
    )


def norm(source: str, target: str) -> tuple[Rule, ...]:
    """Rows of one LayerNorm."""
    return (
        Rule(f"{source}.weight", f"{target}.scale", IDENTITY),
        Rule(f"{source}.bias", f"{target}.bias", IDENTITY),
    )


def patch_embedding(source: str, patch_size: int) -> tuple[Rule, ...]:
    """Rows of the convolution `source` that is a `PatchEmbedding` called `patch_embedding`."""
    kernel = "patch_embedding.projection.kernel"
    return (
        Rule(f"{source}.weight", kernel, conv_patch(patch_size)),
        Rule(f"{source}.bias", "patch_embedding.projection.bias", IDENTITY),
    )


def blocks(
    source: str,
    attention: Iterable[str],
    layers: Mapping[str, str],
    norms: Mapping[str, str],
) -> tuple[Rule, ...]:
    """Rows of a stack of `ViTBlock` called `blocks`.

    Args:
        source: What a file's blocks are called before their index.
        attention: Names in a block of the projections to queries, keys and values.
        layers: Of the other linear layers, with the path that each goes to.
        norms: Of the norms, likewise.
    """
    block = source + ".{i}."
    rows = [*fused_linear((block + name for name in attention), "blocks.attention.qkv")]
    for name, target in layers.items():
        rows += linear(block + name, f"blocks.{target}")
    for name, target in norms.items():
        rows += norm(block + name, f"blocks.{target}")
    return tuple(rows)


def attention_names(style: Style) -> tuple[list[str], str]:
    """Names in a block of DINOv2 or MAE: of queries, keys and values, and of the output layer."""
    if style == "transformers5":
        return [f"attention.{name}_proj" for name in "qkv"], "attention.o_proj"
    names = ("query", "key", "value")
    return [f"attention.attention.{name}" for name in names], "attention.output.dense"


def vit_layers(layers: str) -> tuple[Rule, ...]:
    """Rows of blocks called `<layers>.<index>`, named as by MAE and by the RAE release."""
    return blocks(layers, attention_names("transformers4")[0], _MAE_LAYERS, _MAE_NORMS)


def mae_blocks(prefix: str, style: Style) -> tuple[Rule, ...]:
    """Rows of the blocks of an MAE encoder whose entries start with `prefix`."""
    if style == "transformers4":
        return vit_layers(prefix + "encoder.layer")
    attention, out = attention_names(style)
    layers = {out: "attention.out", "mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}
    return blocks(prefix + "layers", attention, layers, _MAE_NORMS)
