import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import Buffer, Frozen, split
from rae_jax.models.autoencoders.base import Autoencoder
from rae_jax.models.autoencoders.latent_normalization import LatentNormalization
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.decoders.vit_decoder import DecoderConfig, ViTDecoder
from rae_jax.models.encoders.mae import MAEConfig, MAEEncoder
from rae_jax.ops.positions import sincos_2d
from rae_jax.reconstruction.latent_noise import LatentNoise
from rae_jax.weights.convert import load
from rae_jax.weights.tables.mae import mae_prefix, mae_table
from rae_jax.weights.tables.vit_decoder import VIT_DECODER
from tests.comparison import nchw_to_nhwc
from tests.models.compiled import example, filled, run

IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
ENCODER = MAEConfig(
    hidden_size=16, depth=1, num_heads=2, intermediate_size=24, patch_size=8, image_size=16
)
DECODER = DecoderConfig(
    hidden_size=16,
    depth=1,
    num_heads=2,
    intermediate_size=24,
    latent_channels=16,
    grid=(3, 3),
    patch_size=4,
)


def encoder_of(config, entries=None):
    encoder = filled(lambda: MAEEncoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    if entries is None:
        return encoder
    return load(mae_table(config.patch_size, mae_prefix(entries)), entries, encoder)


def decoder_of(config, entries=None):
    decoder = filled(lambda: ViTDecoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    if entries is None:
        return decoder
    width = config.hidden_size
    table = np.concatenate([np.zeros((1, width), np.float32), sincos_2d(width, *config.grid)])
    return load(VIT_DECODER, {"decoder_pos_embed": table[None]} | entries, decoder)


def tiny(*, encoder_input_size=24, decoder=DECODER, **parts):
    return AutoencoderRAE(
        encoder_of(ENCODER),
        decoder_of(decoder),
        encoder_input_size=encoder_input_size,
        **IMAGENET,
        **parts,
    )


def images_of(case, name):
    return jnp.asarray(nchw_to_nhwc(case.input(name)))


def test_it_is_an_autoencoder():
    assert isinstance(tiny(), Autoencoder)


def test_the_encoder_is_frozen_and_the_decoder_trains():
    autoencoder = tiny(normalization=LatentNormalization(np.zeros((3, 3, 16)), np.ones((3, 3, 16))))
    _, parameters, frozen, buffers = split(autoencoder, nnx.Param, Frozen, Buffer)
    assert list(parameters) == ["decoder"]
    assert list(frozen) == ["encoder"]
    assert set(buffers) == {"decoder", "normalization"}


def add_one(features, key):
    del key
    return features + 1


def test_noise_needs_a_key():
    images, key = example((2, 24, 24, 3)), jax.random.key(1)
    autoencoder = tiny(noise=add_one)
    clean = run(autoencoder, images, method="encode")
    # Two programs: XLA may round them differently.
    features = run(autoencoder, images, method="features")
    np.testing.assert_allclose(clean, features, rtol=0, atol=1e-6)
    noisy = run(autoencoder, images, key, method="encode")
    np.testing.assert_allclose(noisy, clean + 1, rtol=0, atol=1e-6)


def test_without_a_decoder_it_only_encodes():
    autoencoder = AutoencoderRAE(encoder_of(ENCODER), None, encoder_input_size=24, **IMAGENET)
    latents = run(autoencoder, example((1, 24, 24, 3)), method="encode")
    assert latents.shape == (1, 3, 3, 16)
    with pytest.raises(ValueError, match="only encodes; give it a decoder"):
        autoencoder.decode(latents)


def test_noise_does_not_make_a_new_definition():
    first, _ = split(tiny(noise=LatentNoise(0.8)))
    second, _ = split(tiny(noise=LatentNoise(0.8)))
    assert first.graphdef == second.graphdef


@pytest.mark.parametrize(
    "change, message",
    [
        ({"encoder_input_size": 20}, "multiple of the encoder's patch size 8, got 20"),
        (
            {"decoder": dataclasses.replace(DECODER, latent_channels=8)},
            "must be the encoder's width 16, got 8",
        ),
        (
            {"normalization": LatentNormalization(np.zeros((2, 3, 16)), np.ones((2, 3, 16)))},
            r"shape \(3, 3, 16\) \(h, w, C\), got \(2, 3, 16\)",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tiny(**change)
