"""Files of AutoencoderKL: diffusers, with its former names of attention too, and CompVis' own.

The layouts name the same parts differently; CompVis' counts the decoder's levels from full size
and holds attention as 1 x 1 convolutions.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from rae_jax.models.autoencoders.kl_config import KLConfig
from rae_jax.weights.table import (
    CONV_2D,
    FUSED_BIAS,
    FUSED_LINEAR,
    LINEAR,
    Rule,
    Transform,
    WeightTable,
    conv_patch,
)

Layout = Literal["diffusers", "diffusers_deprecated", "original"]

_POINT = conv_patch(1)
_FUSED_POINT = Transform(
    "concatenate outputs, OI11 to IO",
    lambda e: np.concatenate(e, axis=0)[:, :, 0, 0].T,
    lambda p, count: [part[:, :, None, None] for part in np.split(p.T, count, axis=0)],
)


@dataclasses.dataclass(frozen=True)
class _Names:
    """How a layout calls the parts; `{}` stands for numbers of levels and blocks."""

    down_block: str = "encoder.down_blocks.{}.resnets.{}"
    down_step: str = "encoder.down_blocks.{}.downsamplers.0.conv"
    up_block: str = "decoder.up_blocks.{}.resnets.{}"
    up_step: str = "decoder.up_blocks.{}.upsamplers.0.conv"
    shortcut: str = "conv_shortcut"
    middle: tuple[str, str] = ("mid_block.resnets.0", "mid_block.resnets.1")
    attention: str = "mid_block.attentions.0"
    attention_norm: str = "group_norm"
    qkv: tuple[str, ...] = ("to_q", "to_k", "to_v")
    out: str = "to_out.0"
    norm: str = "conv_norm_out"


_LAYOUTS: Mapping[Layout, _Names] = {
    "diffusers": _Names(),
    "diffusers_deprecated": _Names(qkv=("query", "key", "value"), out="proj_attn"),
    "original": _Names(
        down_block="encoder.down.{}.block.{}",
        down_step="encoder.down.{}.downsample.conv",
        up_block="decoder.up.{}.block.{}",
        up_step="decoder.up.{}.upsample.conv",
        shortcut="nin_shortcut",
        middle=("mid.block_1", "mid.block_2"),
        attention="mid.attn_1",
        attention_norm="norm",
        qkv=("q", "k", "v"),
        out="proj_out",
        norm="norm_out",
    ),
}


def autoencoder_kl_table(config: KLConfig, layout: Layout = "diffusers") -> WeightTable:
    """Rows that join a file and an `AutoencoderKL` with these options."""
    names, widths = _LAYOUTS[layout], config.block_out_channels
    levels = len(widths)
    rules: list[Rule] = []
    for side in ("encoder", "decoder"):
        rules += _convolution(f"{side}.conv_in", f"{side}.input")
        rules += _middle(config, names, layout, side)
        rules += _norm(f"{side}.{names.norm}", f"{side}.norm")
        rules += _convolution(f"{side}.conv_out", f"{side}.output")
    for level in range(levels):
        changes = level > 0 and widths[level - 1] != widths[level]
        for block in range(config.layers_per_block):
            source = names.down_block.format(level, block)
            target = f"encoder.levels.{level}.blocks.{block}"
            rules += _resnet(source, target, names, changes and block == 0)
        if level + 1 < levels:
            rules += _convolution(
                names.down_step.format(level), f"encoder.steps.{level}.convolution"
            )
    upwards = widths[::-1]
    for level in range(levels):
        place = levels - 1 - level if layout == "original" else level
        changes = level > 0 and upwards[level - 1] != upwards[level]
        for block in range(config.layers_per_block + 1):
            source = names.up_block.format(place, block)
            target = f"decoder.levels.{level}.blocks.{block}"
            rules += _resnet(source, target, names, changes and block == 0)
        if level + 1 < levels:
            rules += _convolution(names.up_step.format(place), f"decoder.steps.{level}.convolution")
    if config.use_quant_conv:
        rules += _point("quant_conv", "quant")
    if config.use_post_quant_conv:
        rules += _point("post_quant_conv", "post_quant")
    return WeightTable(tuple(rules))


def _middle(config: KLConfig, names: _Names, layout: Layout, side: str) -> Iterator[Rule]:
    for number, source in enumerate(names.middle, start=1):
        yield from _resnet(f"{side}.{source}", f"{side}.middle.block_{number}", names, False)
    if not config.mid_block_add_attention:
        return
    source, target = f"{side}.{names.attention}", f"{side}.middle.attention"
    yield from _norm(f"{source}.{names.attention_norm}", f"{target}.norm")
    flat = layout != "original"
    kernels, biases = (
        tuple(f"{source}.{name}.{leaf}" for name in names.qkv) for leaf in ("weight", "bias")
    )
    yield Rule(kernels, f"{target}.attention.qkv.kernel", FUSED_LINEAR if flat else _FUSED_POINT)
    yield Rule(biases, f"{target}.attention.qkv.bias", FUSED_BIAS)
    out = f"{source}.{names.out}"
    yield Rule(f"{out}.weight", f"{target}.attention.out.kernel", LINEAR if flat else _POINT)
    yield Rule(f"{out}.bias", f"{target}.attention.out.bias")


def _resnet(source: str, target: str, names: _Names, has_shortcut: bool) -> Iterator[Rule]:
    for number in (1, 2):
        yield from _norm(f"{source}.norm{number}", f"{target}.norm_{number}")
        yield from _convolution(f"{source}.conv{number}", f"{target}.convolution_{number}")
    if has_shortcut:
        yield from _point(f"{source}.{names.shortcut}", f"{target}.shortcut")


def _convolution(source: str, target: str) -> Iterator[Rule]:
    yield Rule(f"{source}.weight", f"{target}.kernel", CONV_2D)
    yield Rule(f"{source}.bias", f"{target}.bias")


def _point(source: str, target: str) -> Iterator[Rule]:
    yield Rule(f"{source}.weight", f"{target}.kernel", _POINT)
    yield Rule(f"{source}.bias", f"{target}.bias")


def _norm(source: str, target: str) -> Iterator[Rule]:
    yield Rule(f"{source}.weight", f"{target}.norm.scale")
    yield Rule(f"{source}.bias", f"{target}.norm.bias")
