"""What the parts of a benchmark compute: models by size, batches, precision."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rae_jax.configuration.defaults import DECODERS
from rae_jax.configuration.denoising import DiTDHConfig
from rae_jax.configuration.parts import DecoderConfig

COMPARED = (*("encode", "decode", "denoise", "train-stage1", "train-stage2", "sample", "evaluate"),)
"""Parts that sides take turns in."""

PARTS = (*COMPARED, "data", "compile")
"""All parts."""

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the encoder's images."""

NUM_CLASSES = 1000
GUIDANCE_SCALE = 1.42
NORMALIZED_VARIANCE = 2.25
"""Of every latent, in the place of measured statistics; their mean is 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes for one kind of machine.

    Attributes:
        batch_sizes: Images at a time, by part.
        dtype: What is computed in unless told otherwise.
        points: Points of the grid of times that sampling takes, one more than its steps.
        encoder: DINOv2 with registers, as `config.json` of the transformers library says it.
        encoder_input: Side of the images that the encoder takes.
        decoder: Of the parts decode and sample.
        denoiser: Of the parts denoise, sample and compile.
        guide: The weaker denoiser of sampling.
        trained_denoiser: Of the part train-stage2.
        trained_decoder: Of the part train-stage1.
        discriminator: Sizes of the DINO that judges in train-stage1.
        key_depths: Blocks of it that have a head.
        image_size: Side of the images.
    """

    batch_sizes: Mapping[str, int]
    dtype: str
    points: int
    encoder: Mapping[str, Any]
    encoder_input: int
    decoder: DecoderConfig
    denoiser: DiTDHConfig
    guide: DiTDHConfig
    trained_denoiser: DiTDHConfig
    trained_decoder: DecoderConfig
    discriminator: Mapping[str, Any]
    key_depths: tuple[int, ...]
    image_size: int

    @property
    def grid(self) -> int:
        """Rows and columns of latents."""
        return self.encoder_input // self.encoder["patch_size"]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, C)."""
        return self.grid, self.grid, self.encoder["hidden_size"]


_VIT_B = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 14,
    "image_size": 518,
    "mlp_ratio": 4,
    "num_register_tokens": 4,
    "layerscale_value": 1.0,
    "layer_norm_eps": 1e-6,
    "use_swiglu_ffn": False,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "num_channels": 3,
}

_DIT_DH_XL = DiTDHConfig()
_DIT_DH_S = DiTDHConfig(backbone_hidden_size=384, backbone_depth=12, backbone_num_heads=6)
_TINY_DIT_DH = DiTDHConfig(
    backbone_hidden_size=64,
    backbone_depth=2,
    backbone_num_heads=2,
    head_hidden_size=128,
    head_depth=1,
    head_num_heads=2,
)
_TINY_DECODER = DecoderConfig(hidden_size=64, depth=2, num_heads=2, intermediate_size=128)

_CPU = Preset(
    batch_sizes={
        "encode": 8,
        "decode": 4,
        "denoise": 2,
        "train-stage1": 2,
        "train-stage2": 4,
        "sample": 1,
        "evaluate": 8,
        "data": 32,
        "compile": 2,
    },
    dtype="float32",
    points=50,
    encoder=_VIT_B,
    encoder_input=224,
    decoder=DECODERS["vit_xl"],
    denoiser=_DIT_DH_XL,
    guide=_DIT_DH_S,
    trained_denoiser=_DIT_DH_S,
    trained_decoder=DECODERS["vit_b"],
    discriminator={"hidden_size": 384, "depth": 12, "num_heads": 6, "patch_size": 8},
    key_depths=(2, 5, 8, 11),
    image_size=256,
)

PRESETS = {
    "cpu": _CPU,
    "gpu": dataclasses.replace(
        _CPU,
        batch_sizes={
            "encode": 256,
            "decode": 128,
            "denoise": 128,
            "train-stage1": 32,
            "train-stage2": 64,
            "sample": 64,
            "evaluate": 256,
            "data": 256,
            "compile": 64,
        },
        dtype="bfloat16",
        trained_denoiser=_DIT_DH_XL,
        trained_decoder=DECODERS["vit_xl"],
    ),
    "tiny": dataclasses.replace(
        _CPU,
        batch_sizes=dict.fromkeys(PARTS, 2),
        points=4,
        encoder={
            **_VIT_B,
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        encoder_input=56,
        decoder=_TINY_DECODER,
        denoiser=_TINY_DIT_DH,
        guide=dataclasses.replace(_TINY_DIT_DH, backbone_depth=1),
        trained_denoiser=_TINY_DIT_DH,
        trained_decoder=_TINY_DECODER,
        discriminator={"hidden_size": 32, "depth": 2, "num_heads": 2, "patch_size": 32},
        key_depths=(0,),
        image_size=64,
    ),
}
"""By name: what one machine without and with an accelerator computes in seconds, and models that
are quick enough to try a command with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What one side of a comparison is asked for.

    Attributes:
        part: One of `COMPARED`.
        preset: Name of the sizes.
        batch_size: Images at a time.
        dtype: Compute dtype.
        points: Of the grid of times in sampling.
        threads: Processor threads.
        compiled: Whether sides that need not compile do so.
        path: Checkout of the peer's source, where it has one.
    """

    part: str
    preset: str
    batch_size: int
    dtype: str
    points: int
    threads: int
    compiled: bool = False
    path: str = ""

    @property
    def sizes(self) -> Preset:
        """The preset."""
        return PRESETS[self.preset]
