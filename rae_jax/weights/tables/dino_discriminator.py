"""Discriminators of the RAE release: the frozen DINO's file, and the heads in its checkpoints."""

from rae_jax.models.auxiliary.dino_discriminator import HeadConfig
from rae_jax.weights.table import Rule, Transform, WeightTable, squeeze
from rae_jax.weights.tables.vit_layers import blocks, norm, patch_embedding

_KERNEL = Transform(
    "OIK to KIO", lambda e: e[0].transpose(2, 1, 0), lambda p, count: [p.transpose(2, 1, 0)]
)


def dino_table(patch_size: int) -> WeightTable:
    """Rows of `DINO`; the final norm is not used.

    Args:
        patch_size: Side of a patch.
    """
    layers = {"attn.proj": "attention.out", "mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}
    rules = (
        Rule("cls_token", "class_token", squeeze(2)),
        Rule("pos_embed", "position_table", squeeze(1)),
        *patch_embedding("patch_embed.proj", patch_size),
        *blocks("blocks", ["attn.qkv"], layers, {"norm1": "norm_1", "norm2": "norm_2"}),
    )
    return WeightTable(rules, ignored_source=(r"norm\.(weight|bias)",))


def convolution_rules(source: str, target: str, *, spectral: bool) -> tuple[Rule, ...]:
    """Rows of one `CircularConvolution`.

    Args:
        source: Its name in the file.
        target: Its path with a dot behind it, or "".
        spectral: Whether its kernel is spectrally normed.
    """
    bias = Rule(f"{source}.bias", f"{target}bias")
    if not spectral:
        return Rule(f"{source}.weight", f"{target}kernel", _KERNEL), bias
    return (
        Rule(f"{source}.weight_orig", f"{target}kernel", _KERNEL),
        bias,
        Rule(f"{source}.weight_u", f"{target}left"),
        Rule(f"{source}.weight_v", f"{target}right"),
    )


def block_rules(source: str, target: str, *, spectral: bool) -> tuple[Rule, ...]:
    """Rows of one `HeadBlock`, with the arguments of `convolution_rules`."""
    return (
        *convolution_rules(f"{source}.0", f"{target}convolution.", spectral=spectral),
        *norm(f"{source}.1", f"{target}norm"),
    )


def heads_table(config: HeadConfig) -> WeightTable:
    """Rows of `DINODiscriminator.heads`, which a training checkpoint calls "disc".

    Args:
        config: Of the heads.
    """
    head, spectral = "heads.{i}", config.spectral
    rules = (
        *block_rules(f"{head}.0", "entry.", spectral=spectral),
        *block_rules(f"{head}.1.fn", "mixing.", spectral=spectral),
        *convolution_rules(f"{head}.2", "logit.", spectral=spectral),
    )
    return WeightTable(rules)
