"""Sizes of what is published, by its name: enough to build it with shapes in place of weights."""

import dataclasses
from collections.abc import Mapping

from rae_jax.models.autoencoders import dc_config, kl_config
from rae_jax.models.autoencoders.rae_config import RAEConfig
from rae_jax.models.encoders.dinov2 import DINOv2Config
from rae_jax.models.encoders.mae import MAEConfig
from rae_jax.models.encoders.siglip2 import SigLIP2Config
from rae_jax.models.encoders.vision_transformer import VisionTransformerConfig

AutoencoderConfig = RAEConfig | kl_config.KLConfig | dc_config.DCConfig

_DINOV2 = {
    "small": DINOv2Config(hidden_size=384, depth=12, num_heads=6),
    "base": DINOv2Config(hidden_size=768, depth=12, num_heads=12),
    "large": DINOv2Config(hidden_size=1024, depth=24, num_heads=16),
    "giant": DINOv2Config(hidden_size=1536, depth=40, num_heads=24, use_swiglu=True),
}


def _siglip2(width: int, depth: int, num_heads: int, inner: int) -> SigLIP2Config:
    return SigLIP2Config(
        hidden_size=width,
        depth=depth,
        num_heads=num_heads,
        intermediate_size=inner,
        image_size=256,
    )


def _mae(width: int, depth: int, num_heads: int, patch_size: int = 16) -> MAEConfig:
    return MAEConfig(
        hidden_size=width,
        depth=depth,
        num_heads=num_heads,
        intermediate_size=4 * width,
        patch_size=patch_size,
    )


ENCODERS: Mapping[str, VisionTransformerConfig] = {
    **{f"facebook/dinov2-with-registers-{size}": config for size, config in _DINOV2.items()},
    **{
        f"facebook/dinov2-{size}": dataclasses.replace(config, num_registers=None)
        for size, config in _DINOV2.items()
    },
    "google/siglip2-base-patch16-256": _siglip2(768, 12, 12, 3072),
    "google/siglip2-large-patch16-256": _siglip2(1024, 24, 16, 4096),
    "google/siglip2-so400m-patch16-256": _siglip2(1152, 27, 16, 4304),
    "google/siglip2-giant-opt-patch16-256": _siglip2(1536, 40, 16, 6144),
    "facebook/vit-mae-base": _mae(768, 12, 12),
    "facebook/vit-mae-large": _mae(1024, 24, 16),
    "facebook/vit-mae-huge": _mae(1280, 32, 16, patch_size=14),
}
"""Encoders that transformers wrote."""


def _rae(encoder_type: str, width: int, depth: int, patch_size: int, side: int) -> RAEConfig:
    return RAEConfig(
        encoder_type=encoder_type,
        encoder_hidden_size=width,
        encoder_num_hidden_layers=depth,
        encoder_patch_size=patch_size,
        encoder_input_size=side,
        decoder_hidden_size=1152,
        decoder_num_hidden_layers=28,
        decoder_num_attention_heads=16,
        decoder_intermediate_size=4096,
    )


AUTOENCODERS: Mapping[str, AutoencoderConfig] = {
    "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08": _rae("dinov2", 768, 12, 14, 224),
    "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08-i512": _rae("dinov2", 768, 12, 14, 448),
    "nyu-visionx/RAE-dinov2-wReg-small-ViTXL-n08": _rae("dinov2", 384, 12, 14, 224),
    "nyu-visionx/RAE-dinov2-wReg-large-ViTXL-n08": _rae("dinov2", 1024, 24, 14, 224),
    "nyu-visionx/RAE-siglip2-base-p16-i256-ViTXL-n08": _rae("siglip2", 768, 12, 16, 256),
    "nyu-visionx/RAE-mae-base-p16-ViTXL-n08": _rae("mae", 768, 12, 16, 256),
    **{f"stabilityai/{name}": kl_config.RELEASED[name] for name in ("sd-vae-ft-mse", "sdxl-vae")},
    **{f"mit-han-lab/{name}-diffusers": config for name, config in dc_config.RELEASED.items()},
}
"""Autoencoders that diffusers wrote."""
