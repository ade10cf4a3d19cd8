"""Autoencoders of every encoder against the answers of the RAE release."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import split
from rae_jax.models.autoencoders.latent_normalization import LatentNormalization
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.decoders.vit_decoder import DecoderConfig, ViTDecoder
from rae_jax.ops.positions import sincos_2d
from rae_jax.weights.convert import load
from rae_jax.weights.tables.vit_decoder import VIT_DECODER
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.models.compiled import filled, large_constants, run
from tests.models.encoders.published import loaded


class Upstream:
    """The case's parts, joined with or without latent statistics; each program compiled once."""

    def __init__(self, name):
        self.case = load_case(name)
        config = self.case.config
        encoder = loaded(config["encoder_config.json"], self.case.entries("encoder_entries"))
        side = config["rae"]["encoder_input_size"]
        self.grid = (side // encoder.patch_size,) * 2
        preprocessor = config["preprocessor"]
        self.parts = {
            "encoder": encoder,
            "decoder": self._decoder(encoder.hidden_size),
            "encoder_input_size": side,
            "image_mean": tuple(preprocessor["image_mean"]),
            "image_std": tuple(preprocessor["image_std"]),
        }
        self.plain = AutoencoderRAE(**self.parts)
        mean, variance = (self.case.input(name) for name in ("latent_mean", "latent_var"))
        self.normalized = self.with_statistics(nchw_to_nhwc(mean), nchw_to_nhwc(variance))

    def _decoder(self, channels):
        sizes = self.case.config["decoder_config.json"]
        config = DecoderConfig(
            hidden_size=sizes["decoder_hidden_size"],
            depth=sizes["decoder_num_hidden_layers"],
            num_heads=sizes["decoder_num_attention_heads"],
            intermediate_size=sizes["decoder_intermediate_size"],
            latent_channels=channels,
            grid=self.grid,
            patch_size=self.case.config["rae"]["decoder_patch_size"],
        )
        entries = self.case.entries("decoder_entries")
        width = config.hidden_size
        table = np.concatenate([np.zeros((1, width), np.float32), sincos_2d(width, *self.grid)])
        decoder = filled(lambda: ViTDecoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
        return load(VIT_DECODER, {"decoder_pos_embed": table[None]} | entries, decoder)

    def with_statistics(self, mean, variance):
        epsilon = self.case.config["rae"]["eps"]
        normalization = LatentNormalization(mean, variance, epsilon=epsilon)
        return AutoencoderRAE(**self.parts, normalization=normalization)

    def images(self, name):
        return jnp.asarray(nchw_to_nhwc(self.case.input(name)))

    def noted_images(self):
        """The input that most of the answers are for."""
        return self.images(self.case.statement["outputs"]["recon"]["note"][8:].split(")")[0])


@pytest.fixture(scope="module", params=["rae_mae_tiny", "rae_dinov2_tiny", "rae_siglip2_tiny"])
def upstream(request):
    return Upstream(request.param)


def test_latents_of_any_size_match_upstream(upstream):
    sizes = [name[7:] for name in upstream.case.statement["inputs"] if name.startswith("images_")]
    assert len(sizes) == 3
    for size in sizes:
        latents = run(upstream.normalized, upstream.images(f"images_{size}"), method="encode")
        upstream.case.assert_close(f"z_{size}", nhwc_to_nchw(latents))


def test_latents_without_statistics_match_upstream(upstream):
    latents = run(upstream.plain, upstream.noted_images(), method="encode")
    tokens = latents.reshape(len(latents), -1, latents.shape[-1])
    upstream.case.assert_close("z_plain", nhwc_to_nchw(latents))
    upstream.case.assert_close("z_flat", tokens)
    assert upstream.plain.latent_shape(80) == latents.shape[1:]
    mean, variance = (upstream.case.input(name) for name in ("token_mean", "token_var"))
    shape = latents.shape[1:]
    statistics = upstream.with_statistics(mean.reshape(shape), variance.reshape(shape))
    normalized = statistics.normalization.normalize(jnp.asarray(latents))
    upstream.case.assert_close("z_flat_stats", normalized.reshape(tokens.shape))


def test_reconstruction_matches_upstream(upstream):
    reconstruction = run(upstream.normalized, upstream.noted_images(), method="__call__")
    upstream.case.assert_close("recon", nhwc_to_nchw(reconstruction))


def test_decoded_images_match_upstream(upstream):
    case, latents = upstream.case, upstream.images("latent")
    with_statistics = run(upstream.normalized, latents, method="decode")
    case.assert_close("decoded", nhwc_to_nchw(with_statistics))
    without = nhwc_to_nchw(run(upstream.plain, latents, method="decode"))
    case.assert_close("decoded_plain", without)
    case.assert_close("decoded_flat", without)
    other_grid = run(upstream.plain, upstream.images("latent_other_grid"), method="decode")
    case.assert_close("decoded_plain_other_grid", nhwc_to_nchw(other_grid))


def test_weights_are_no_constants_of_the_compiled_functions(upstream):
    """Of constant values there are the matrices that resample the positions, if they must be."""
    definition, weights = split(upstream.normalized)
    side, table = upstream.parts["encoder_input_size"], upstream.parts["encoder"].config.grid
    images, latents = jnp.zeros((1, side, side, 3)), jnp.zeros((1, *upstream.grid, 48))
    allowed = upstream.grid[0] * table[0]
    for method, values in (("encode", images), ("decode", latents)):
        # The smallest kernel of the model has 32 x 32 values.
        assert not large_constants(
            lambda weights, values, method=method: getattr(definition.merge(weights), method)(
                values
            ),
            weights,
            values,
            limit=allowed,
        )
