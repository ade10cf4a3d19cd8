import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import Frozen, freeze, split
from rae_jax.models.autoencoders.base import Autoencoder, VariationalAutoencoder
from rae_jax.models.autoencoders.kl_config import KLConfig
from rae_jax.models.autoencoders.options import ConvolutionalOptions
from rae_jax.models.autoencoders.posterior import DiagonalGaussian
from rae_jax.models.autoencoders.tiling import Tiling
from rae_jax.ops.images import to_signed
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.models.autoencoders.kl import (
    SINGLE_FILES,
    TINY,
    autoencoder_of,
    images_of,
    latents_of,
)
from tests.models.compiled import run


@pytest.fixture(scope="module")
def tiny():
    case = load_case("autoencoder_kl_tiny_noquant")
    return case, autoencoder_of(case)


def answers(module, images, latents):
    """Answers of diffusers by the names that the cases give them."""
    definition, weights = split(module)

    @jax.jit
    def everything(weights, images, latents):
        module = definition.merge(weights)
        posterior = module.posterior(images)
        # Together, so that the decoder is compiled once.
        both = jnp.concatenate([posterior.mode(), latents])
        pixels = to_signed(module.decode_features(both))
        maps = posterior.mean, posterior.log_variance, posterior.std
        return *maps, pixels[: len(images)], pixels[len(images) :], posterior.kl()

    *maps, kl = everything(weights, images, latents)
    names = ("mean", "logvar", "std", "reconstruction", "sample")
    return {**dict(zip(names, map(nhwc_to_nchw, maps), strict=True)), "kl": np.asarray(kl)}


@pytest.mark.parametrize("name", [*TINY, *SINGLE_FILES])
def test_answers_are_those_of_diffusers(name):
    case = load_case(f"autoencoder_kl_{name}")
    inputs = images_of(case, "pixel_values"), latents_of(case, "latents")
    found = answers(autoencoder_of(case), *inputs)
    compared = set(found) & set(case.statement["outputs"])
    assert compared >= {"mean", "logvar", "sample", "reconstruction"}
    for output in compared:
        case.assert_close(output, found[output])


def test_variances_are_clipped():
    case = load_case("autoencoder_kl_tiny")
    moments = jnp.asarray(nchw_to_nhwc(case.input("wild_moments")))
    found = DiagonalGaussian.of_moments(moments).log_variance
    case.assert_close("wild_logvar", nhwc_to_nchw(found))
    assert float(found.min()) == -30 and float(found.max()) == 20


@pytest.mark.long
def test_zeros_would_not_pass():
    for name in [*TINY, *SINGLE_FILES]:
        case = load_case(f"autoencoder_kl_{name}")
        for output, values in case.answers.items():
            assert np.abs(values).max() > 500 * case.statement["outputs"][output]["tolerance"]
        for path, leaf in nnx.to_flat_state(nnx.state(autoencoder_of(case))):
            assert np.abs(np.asarray(leaf[...])).max() > 0, path


def test_latents_of_stage_2_are_shifted_and_scaled(tiny):
    case, module = tiny
    assert isinstance(module, Autoencoder) and isinstance(module, VariationalAutoencoder)
    images, config = images_of(case, "pixel_values"), module.config
    # Pipelines use these where a file has them; other files have a shift of one number.
    mean, std = config.latents_mean[0], config.latents_std[0]
    expected = (case.output("mean") - mean) * config.scaling_factor / std
    latents = run(module, images, method="encode")
    np.testing.assert_allclose(nhwc_to_nchw(latents), expected, rtol=0, atol=2e-5)
    plain = load_case("autoencoder_kl_tiny")
    latents = run(autoencoder_of(plain), images_of(plain, "pixel_values"), method="encode")
    expected = plain.output("mean") * 0.18215
    np.testing.assert_allclose(nhwc_to_nchw(latents), expected, rtol=0, atol=1e-5)
    assert module.latent_shape(64) == (16, 16, 16)


def test_latents_come_back_as_reconstructions(tiny):
    case, module = tiny
    latents = run(module, images_of(case, "pixel_values"), method="encode")
    decoded = run(module, latents, method="decode")
    expected = (case.output("reconstruction") + 1) / 2
    np.testing.assert_allclose(nhwc_to_nchw(decoded), expected, rtol=0, atol=3e-5)


@pytest.mark.long
def test_a_key_draws_latents_image_by_image(tiny):
    case, module = tiny
    images, key = images_of(case, "pixel_values"), jax.random.key(3)
    moments = run(module, images, method="latent_moments")
    drawn = run(module, images, key, method="encode")
    alone = run(module, images[:1], key, method="encode")
    np.testing.assert_allclose(drawn[:1], alone, rtol=0, atol=1e-5)
    deviations = (drawn - moments.mean) / moments.deviation
    assert 0.9 < float(deviations.std()) < 1.1
    sample = DiagonalGaussian(moments.mean, 2 * jnp.log(moments.deviation)).sample(key)
    np.testing.assert_allclose(sample, drawn, rtol=0, atol=1e-5)


@pytest.mark.long
def test_slices_and_tiles(tiny):
    case = load_case("autoencoder_kl_tiny_tiling")
    inputs = images_of(case, "pixel_values"), latents_of(case, "latents")
    tiling = KLConfig.read(case.config).tiling
    assert tiling == Tiling((32, 32), (24, 24))
    found = answers(autoencoder_of(case, options=ConvolutionalOptions(tiling=tiling)), *inputs)
    for output in ("mean", "logvar", "sample"):
        case.assert_close(output, found[output])
    # In slices of one image, and uncut.
    whole = answers(autoencoder_of(case, options=ConvolutionalOptions(slice_size=1)), *inputs)
    case.assert_close("whole_mean", whole["mean"])
    case.assert_close("whole_sample", whole["sample"])


def test_everything_can_be_frozen(tiny):
    case, _ = tiny
    module = autoencoder_of(case)
    _, parameters = split(module, nnx.Param)
    assert set(parameters) == {"encoder", "decoder"}
    _, frozen = split(freeze(module), Frozen)
    assert set(frozen) == {"encoder", "decoder"}


def test_bfloat16_stays_close(tiny):
    case, module = tiny
    images = images_of(case, "pixel_values")
    latents = run(autoencoder_of(case, dtype=jnp.bfloat16), images, method="features")
    exact = run(module, images, method="features")
    assert latents.dtype == jnp.float32
    error = jnp.sqrt(jnp.square(latents - exact).mean() / jnp.square(exact).mean())
    assert 1e-4 < error < 2e-2


def test_float16_is_computed_in_float32_where_options_say_so():
    case = load_case("autoencoder_kl_tiny")
    module = autoencoder_of(case, dtype=jnp.float16)
    assert module.decoder.input.dtype == jnp.float32


@pytest.mark.parametrize("method", ["encode", "latent_shape"])
def test_other_sizes_of_images_are_refused(tiny, method):
    _, module = tiny
    argument = jnp.zeros((1, 8, 18, 3)) if method == "encode" else 18
    with pytest.raises(ValueError, match="multiples of 4 .* got 18; resize images to 16"):
        getattr(module, method)(argument)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"_class_name": "AutoencoderDC"}, "_class_name must be 'AutoencoderKL', got 'Autoenc"),
        ({"width": 3}, "entries that AutoencoderKL does not have: width"),
        ({"down_block_types": ["AttnDownBlock2D"] * 2}, "be 2 times 'DownEncoderBlock2D'"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "up_block_types must be 2 times"),
        ({"norm_num_groups": 7}, r"divide every width of \(32, 64\), got 7"),
        ({"in_channels": 4}, "in_channels must be 3, got 4"),
        ({"act_fn": "tanh"}, "act_fn must be one of"),
        ({"scaling_factor": 0}, "scaling_factor must be above 0"),
        ({"scaling_factor": "1"}, "scaling_factor must be a number, got '1'"),
        ({"latents_mean": [0.0] * 4}, "be given together with latents_mean"),
        ({"latents_mean": [0.0], "latents_std": [1.0]}, "have 4 numbers, one per channel"),
        ({"use_quant_conv": 1}, "use_quant_conv must be true or false, got 1"),
        ({"block_out_channels": [32, "64"]}, "a list of whole numbers, one per level"),
        ({"layers_per_block": 0}, "layers_per_block must be a whole number above 0, got 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, message):
    config = load_case("autoencoder_kl_tiny").config
    with pytest.raises(ValueError, match=message):
        KLConfig.read({**config, **changes})
