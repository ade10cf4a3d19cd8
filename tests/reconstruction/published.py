"""Autoencoders and optimiser settings of the RAE release's training cases."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.functional import abstract
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.decoders.vit_decoder import DecoderConfig, ViTDecoder
from rae_jax.weights.convert import export, load
from rae_jax.weights.tables.vit_decoder import VIT_DECODER
from tests.comparison import Case
from tests.models.encoders.published import loaded


def autoencoder(case: Case) -> AutoencoderRAE:
    """The case's parts joined, without statistics and noise."""
    encoder = loaded(case.config["encoder_config.json"], case.entries("encoder_entries"))
    rae, sizes = case.config["rae"], case.config["decoder_config.json"]
    side = rae["encoder_input_size"] // encoder.patch_size
    config = DecoderConfig(
        hidden_size=sizes["decoder_hidden_size"],
        depth=sizes["decoder_num_hidden_layers"],
        num_heads=sizes["decoder_num_attention_heads"],
        intermediate_size=sizes["decoder_intermediate_size"],
        latent_channels=encoder.hidden_size,
        grid=(side, side),
        patch_size=rae["decoder_patch_size"],
    )
    decoder = abstract(lambda: ViTDecoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    entries = {"decoder_pos_embed": config.positions()[None]} | case.entries("decoder_entries")
    preprocessor = case.config["preprocessor"]
    return AutoencoderRAE(
        encoder,
        load(VIT_DECODER, entries, decoder),
        encoder_input_size=rae["encoder_input_size"],
        image_mean=tuple(preprocessor["image_mean"]),
        image_std=tuple(preprocessor["image_std"]),
    )


def decoder_entries(model: AutoencoderRAE) -> dict[str, np.ndarray]:
    """Entries of the decoder (or of its gradients) under their published names."""
    return export(VIT_DECODER, model.decoder)
