"""The RAE of diffusers."""

from typing import Any

import diffusers
import numpy as np
import torch

from rae_jax.benchmarking import filling
from rae_jax.benchmarking.presets import IMAGE_MEAN, IMAGE_STD, NORMALIZED_VARIANCE, Settings
from rae_jax.benchmarking.sides import Prepared
from tests.benchmarking.peers import torch_side

VERSION = f"diffusers {diffusers.__version__}, torch {torch.__version__}"

_PUBLISHED = {
    "attention.to_q": "attention.attention.query",
    "attention.to_k": "attention.attention.key",
    "attention.to_v": "attention.attention.value",
    "attention.to_out.0": "attention.output.dense",
}


def _renamed(name: str) -> str:
    if name.startswith("decoder."):
        for ours, published in _PUBLISHED.items():
            name = name.replace(ours, published)
    return name.removeprefix("encoder.").removeprefix("decoder.")


def _autoencoder(settings: Settings) -> Any:
    sizes = settings.sizes
    encoder, decoder = sizes.encoder, sizes.decoder
    with torch_side.uninitialized():
        module = diffusers.AutoencoderRAE(
            encoder_type="dinov2",
            encoder_hidden_size=encoder["hidden_size"],
            encoder_patch_size=encoder["patch_size"],
            encoder_num_hidden_layers=encoder["num_hidden_layers"],
            decoder_hidden_size=decoder.hidden_size,
            decoder_num_hidden_layers=decoder.depth,
            decoder_num_attention_heads=decoder.num_heads,
            decoder_intermediate_size=decoder.intermediate_size,
            patch_size=decoder.patch_size,
            encoder_input_size=sizes.encoder_input,
            encoder_norm_mean=list(IMAGE_MEAN),
            encoder_norm_std=list(IMAGE_STD),
        ).eval()
    channels = encoder["hidden_size"]
    # These take the shapes of their values.
    module._latents_mean = torch.zeros(channels, 1, 1)
    module._latents_std = torch.full((channels, 1, 1), NORMALIZED_VARIANCE**0.5)
    kept = ("encoder_mean", "encoder_std", "_latents_mean", "_latents_std")
    torch_side.filled(
        module,
        renamed=_renamed,
        buffers={name: getattr(module, name).numpy() for name in kept},
    )
    positions = module.decoder.decoder_pos_embed
    named = filling.weight("decoder_pos_embed", tuple(positions.shape))
    positions.copy_(torch.from_numpy(named))
    return module


def _encode(settings: Settings) -> Prepared:
    module = _autoencoder(settings)
    encode = torch_side.compiled(module._encode, settings)
    images = torch_side.nchw(filling.images(settings.batch_size, settings.sizes.image_size))

    def run() -> torch.Tensor:
        with torch_side.autocast(settings):
            return encode(images)

    return torch_side.prepared(settings, run, torch_side.nhwc)


def _decode(settings: Settings) -> Prepared:
    module = _autoencoder(settings)
    decode = torch_side.compiled(module._decode, settings)
    given = filling.latents(settings.batch_size, settings.sizes.latent_shape)
    latents = torch_side.nchw(np.asarray(given))

    def run() -> torch.Tensor:
        with torch_side.autocast(settings):
            return decode(latents)

    return torch_side.prepared(settings, run, torch_side.nhwc)


PARTS = {"encode": _encode, "decode": _decode}
