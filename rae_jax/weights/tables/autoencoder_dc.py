"""Files of AutoencoderDC: `diffusion_pytorch_model` of diffusers, and the original DC-AE release.

The original file nests what diffusers has flat, and keeps queries, keys and values in one entry.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

from rae_jax.models.autoencoders.dc_config import (
    RESIDUAL,
    UNSHUFFLE,
    DCConfig,
    Stage,
)
from rae_jax.weights.table import (
    CONV_2D,
    FUSED_LINEAR,
    LINEAR,
    Rule,
    Transform,
    WeightTable,
    conv_patch,
)

Layout = Literal["diffusers", "original"]

BATCHES_SEEN = "num_batches_tracked"
"""Last part of the entries that count the batches a batch norm was trained on."""

_POINT = conv_patch(1)
_DEPTHWISE = Transform(
    "C1HW to HWC",
    lambda e: e[0][:, 0].transpose(1, 2, 0),
    lambda p, count: [p.transpose(2, 0, 1)[:, None]],
)
_PER_HEAD = Transform(
    "(G O)I11 to GIO",
    lambda e: e[0].reshape(-1, e[0].shape[1], e[0].shape[1]).transpose(0, 2, 1),
    lambda p, count: [p.transpose(0, 2, 1).reshape(-1, p.shape[1], 1, 1)],
)
_NORM = {"weight": "scale", "bias": "bias"}
_STATISTICS = {"running_mean": "mean", "running_var": "variance"}


@dataclasses.dataclass(frozen=True)
class _Names:
    """How a layout calls the parts; `{}` stands for a number."""

    encoder_input: str
    encoder_output: str
    encoder_stage: str
    decoder_input: str
    decoder_output: str
    decoder_norm: str
    decoder_stage: str
    strided_step: str
    step: str
    residual: Mapping[str, str]
    attention: str
    qkv: tuple[str, ...]
    neighbours: str
    heads: str
    attention_out: str
    attention_norm: str
    feed_forward: Mapping[str, str]


_DIFFUSERS = _Names(
    encoder_input="encoder.conv_in",
    encoder_output="encoder.conv_out",
    encoder_stage="encoder.down_blocks.{}.{}",
    decoder_input="decoder.conv_in",
    decoder_output="decoder.conv_out",
    decoder_norm="decoder.norm_out",
    decoder_stage="decoder.up_blocks.{}.{}",
    strided_step=".conv",
    step=".conv",
    residual={"convolution_1": "conv1", "convolution_2": "conv2", "norm": "norm"},
    attention="attn",
    qkv=("to_q", "to_k", "to_v"),
    neighbours="to_qkv_multiscale.{}.proj_in",
    heads="to_qkv_multiscale.{}.proj_out",
    attention_out="to_out",
    attention_norm="norm_out",
    feed_forward={
        "inverted": "conv_out.conv_inverted",
        "depthwise": "conv_out.conv_depth",
        "point": "conv_out.conv_point",
        "norm": "conv_out.norm",
    },
)
_ORIGINAL = _Names(
    encoder_input="encoder.project_in.conv",
    encoder_output="encoder.project_out.main.op_list.0.conv",
    encoder_stage="encoder.stages.{}.op_list.{}",
    decoder_input="decoder.project_in.main.conv",
    decoder_output="decoder.project_out.op_list.2.conv",
    decoder_norm="decoder.project_out.op_list.0",
    decoder_stage="decoder.stages.{}.op_list.{}",
    strided_step=".main.conv",
    step=".main.conv.conv",
    residual={
        "convolution_1": "main.conv1.conv",
        "convolution_2": "main.conv2.conv",
        "norm": "main.conv2.norm",
    },
    attention="context_module.main",
    qkv=("qkv.conv",),
    neighbours="aggreg.{}.0",
    heads="aggreg.{}.1",
    attention_out="proj.conv",
    attention_norm="proj.norm",
    feed_forward={
        "inverted": "local_module.main.inverted_conv.conv",
        "depthwise": "local_module.main.depth_conv.conv",
        "point": "local_module.main.point_conv.conv",
        "norm": "local_module.main.point_conv.norm",
    },
)
_LAYOUTS: Mapping[str, _Names] = {"diffusers": _DIFFUSERS, "original": _ORIGINAL}


def autoencoder_dc_table(config: DCConfig, layout: Layout = "diffusers") -> WeightTable:
    """Rows that join a file and an `AutoencoderDC` with these options."""
    names = _LAYOUTS[layout]
    rules = [*_encoder(config, names, layout), *_decoder(config, names, layout)]
    return WeightTable(tuple(rules), ignored_source=(rf".*\.{BATCHES_SEEN}",))


def _encoder(config: DCConfig, names: _Names, layout: Layout) -> Iterator[Rule]:
    stages, unshuffle = config.encoder_stages, config.downsample_block_type == UNSHUFFLE
    if stages[0].depth:
        yield from _convolution(names.encoder_input, "encoder.input")
    else:
        inner = ".conv" if unshuffle or layout == "diffusers" else ""
        yield from _convolution(names.encoder_input + inner, "encoder.input.convolution")
    filled = [index for index, stage in enumerate(stages) if stage.depth]
    for place, index in enumerate(filled):
        source = names.encoder_stage.format(index, "{i}")
        yield from _blocks(stages[index], names, layout, source, f"encoder.stages.{place}.layers")
        if index + 1 < len(stages):
            step = names.step if unshuffle else names.strided_step
            source = names.encoder_stage.format(index, stages[index].depth) + step
            yield from _convolution(source, f"encoder.steps.{place}.convolution")
    yield from _convolution(names.encoder_output, "encoder.output")


def _decoder(config: DCConfig, names: _Names, layout: Layout) -> Iterator[Rule]:
    stages = config.decoder_stages
    yield from _convolution(names.decoder_input, "decoder.input")
    filled = [index for index, stage in enumerate(stages) if stage.depth]
    for place, index in enumerate(filled):
        source = names.decoder_stage.format(index, "{i}")
        last = index + 1 == len(stages)
        for rule in _blocks(stages[index], names, layout, source, f"decoder.stages.{place}.layers"):
            # The step up comes first in the file's list of a stage.
            yield dataclasses.replace(rule, first_layer=0 if last else 1)
        if not last:
            source = names.decoder_stage.format(index, 0) + names.step
            yield from _convolution(source, f"decoder.steps.{place}.convolution")
    yield from _norm(names.decoder_norm, "decoder.norm")
    if stages[0].depth:
        yield from _convolution(names.decoder_output, "decoder.output")
    else:
        yield from _convolution(f"{names.decoder_output}.conv", "decoder.output.convolution")


def _blocks(
    stage: Stage, names: _Names, layout: Layout, source: str, target: str
) -> Iterator[Rule]:
    if stage.block_type == RESIDUAL:
        parts = {part: f"{source}.{name}" for part, name in names.residual.items()}
        yield from _convolution(parts["convolution_1"], f"{target}.convolution_1")
        yield Rule(f"{parts['convolution_2']}.weight", f"{target}.convolution_2.kernel", CONV_2D)
        yield from _norm(parts["norm"], f"{target}.norm", stage.norm)
        return
    flat = layout == "diffusers"
    attention, ours = f"{source}.{names.attention}", f"{target}.attention"
    qkv = tuple(f"{attention}.{name}.weight" for name in names.qkv)
    yield Rule(qkv, f"{ours}.qkv.kernel", FUSED_LINEAR if flat else _POINT)
    for scale in range(len(stage.kernel_sizes)):
        neighbours, heads = (name.format(scale) for name in (names.neighbours, names.heads))
        projection = f"{ours}.scales.{scale}"
        yield Rule(
            f"{attention}.{neighbours}.weight", f"{projection}.neighbours.kernel", _DEPTHWISE
        )
        yield Rule(f"{attention}.{heads}.weight", f"{projection}.kernel", _PER_HEAD)
    out = LINEAR if flat else _POINT
    yield Rule(f"{attention}.{names.attention_out}.weight", f"{ours}.out.kernel", out)
    yield from _norm(f"{attention}.{names.attention_norm}", f"{ours}.norm", stage.norm)
    parts = {part: f"{source}.{name}" for part, name in names.feed_forward.items()}
    ours = f"{target}.feed_forward"
    for part, transform in (("inverted", _POINT), ("depthwise", _DEPTHWISE), ("point", _POINT)):
        yield Rule(f"{parts[part]}.weight", f"{ours}.{part}.kernel", transform)
        if part != "point":
            yield Rule(f"{parts[part]}.bias", f"{ours}.{part}.bias")
    yield from _norm(parts["norm"], f"{ours}.norm")


def _convolution(source: str, target: str) -> Iterator[Rule]:
    yield Rule(f"{source}.weight", f"{target}.kernel", CONV_2D)
    yield Rule(f"{source}.bias", f"{target}.bias")


def _norm(source: str, target: str, kind: str = "rms_norm") -> Iterator[Rule]:
    leaves = _NORM | (_STATISTICS if kind == "batch_norm" else {})
    for theirs, ours in leaves.items():
        yield Rule(f"{source}.{theirs}", f"{target}.{ours}")
