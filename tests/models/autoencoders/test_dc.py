import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import Buffer, Frozen, freeze, split
from rae_jax.models.autoencoders.base import Autoencoder
from rae_jax.models.autoencoders.dc_config import DCConfig
from rae_jax.models.autoencoders.options import ConvolutionalOptions
from rae_jax.models.autoencoders.tiling import Tiling
from rae_jax.ops.images import to_signed
from tests.comparison import load_case, nhwc_to_nchw
from tests.models.autoencoders.dc import SINGLE_FILES, TINY, autoencoder_of, images_of, latents_of
from tests.models.compiled import run

SMALL = DCConfig.read(load_case("autoencoder_dc_tiny_in").config)


@pytest.fixture(scope="module")
def tiny():
    case = load_case("autoencoder_dc_tiny_in")
    return case, autoencoder_of(case)


def answers(module, images, latents):
    """Answers of diffusers by the names that the cases give them."""
    definition, weights = split(module)

    @jax.jit
    def both(weights, images, latents):
        module = definition.merge(weights)
        features = module.features(images)
        # Together, so that the decoder is compiled once.
        pixels = to_signed(module.decode_features(jnp.concatenate([features, latents])))
        return features, pixels[: len(images)], pixels[len(images) :]

    return dict(
        zip(
            ("latent", "reconstruction", "sample"),
            map(nhwc_to_nchw, both(weights, images, latents)),
            strict=True,
        )
    )


@pytest.mark.parametrize(
    "name", [*TINY, *(pytest.param(name, marks=pytest.mark.slow) for name in SINGLE_FILES)]
)
def test_answers_are_those_of_diffusers(name):
    case = load_case(f"autoencoder_dc_{name}")
    inputs = images_of(case, "pixel_values"), latents_of(case, "latents")
    for output, values in answers(autoencoder_of(case), *inputs).items():
        case.assert_close(output, values)


@pytest.mark.parametrize(
    "name", ["tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in TINY[1:])]
)
def test_answers_for_maps_smaller_than_a_head_is_wide(name):
    case = load_case(f"autoencoder_dc_{name}")
    inputs = images_of(case, "small_values"), latents_of(case, "small_latents")
    found = answers(autoencoder_of(case), *inputs)
    case.assert_close("small_latent", found["latent"])
    case.assert_close("small_sample", found["sample"])


def test_zeros_would_not_pass():
    for name in [*TINY, *SINGLE_FILES]:
        case = load_case(f"autoencoder_dc_{name}")
        for output, values in case.answers.items():
            assert np.abs(values).max() > 1000 * case.statement["outputs"][output]["tolerance"]
        for path, leaf in nnx.to_flat_state(nnx.state(autoencoder_of(case))):
            assert np.abs(np.asarray(leaf[...])).max() > 0, path


def test_latents_of_stage_2_are_scaled(tiny):
    case, module = tiny
    assert isinstance(module, Autoencoder)
    images = images_of(case, "pixel_values")
    height, width = (side // SMALL.compression for side in images.shape[1:3])
    latents = run(module, images, jax.random.key(0), method="encode")
    assert latents.shape == (2, height, width, 8) and latents.dtype == jnp.float32
    scaled = SMALL.scaling_factor * case.output("latent")
    np.testing.assert_allclose(nhwc_to_nchw(latents), scaled, rtol=0, atol=2e-5)
    decoded = run(module, latents, method="decode")
    expected = (case.output("reconstruction") + 1) / 2
    np.testing.assert_allclose(nhwc_to_nchw(decoded), expected, rtol=0, atol=1e-5)
    assert module.latent_shape(64) == (8, 8, 8)


def test_slices_give_the_same(tiny):
    case, _ = tiny
    images = jnp.concatenate([images_of(case, "pixel_values")] * 2)[:3]
    sliced = autoencoder_of(case, options=ConvolutionalOptions(slice_size=2))
    features = nhwc_to_nchw(run(sliced, images, method="features"))
    tolerance = case.statement["outputs"]["latent"]["tolerance"]
    np.testing.assert_allclose(features, case.output("latent")[[0, 1, 0]], rtol=0, atol=tolerance)


def test_what_trains_and_what_does_not(tiny):
    case, _ = tiny
    module = autoencoder_of(case)
    _, parameters, buffers = split(module, nnx.Param, Buffer)
    assert set(parameters) == {"encoder", "decoder"}
    names = {path[-1] for path, _ in nnx.to_flat_state(nnx.state(module, Buffer))}
    assert set(buffers) == {"decoder"} and names == {"mean", "variance"}
    _, frozen = split(freeze(module), Frozen)
    assert set(frozen) == {"encoder", "decoder"}


def test_bfloat16_stays_close(tiny):
    case, _ = tiny
    module = autoencoder_of(case, dtype=jnp.bfloat16)
    features = run(module, images_of(case, "pixel_values"), method="features")
    assert features.dtype == jnp.float32
    exact = case.output("latent")
    error = np.sqrt(np.square(nhwc_to_nchw(features) - exact).mean() / np.square(exact).mean())
    # Measured 1.0e-2, after a dozen roundings to 8 bits.
    assert 1e-4 < error < 1.5e-2


@pytest.mark.parametrize("method", ["encode", "latent_shape"])
def test_other_sizes_of_images_are_refused(tiny, method):
    _, module = tiny
    argument = jnp.zeros((1, 8, 20, 3)) if method == "encode" else 20
    with pytest.raises(ValueError, match="multiples of 8 .* got 20; resize images to 16"):
        getattr(module, method)(argument)


def test_slices_of_nothing_are_refused():
    with pytest.raises(ValueError, match="slice_size must be at least 1, got 0"):
        ConvolutionalOptions(slice_size=0)


@pytest.mark.slow
def test_tiles_are_those_of_diffusers():
    case = load_case("autoencoder_dc_tiny_tiling")
    named = case.statement["tiling"]
    size, stride = (
        tuple(named[f"tile_sample_{kind}_{side}"] for side in ("height", "width"))
        for kind in ("min", "stride")
    )
    inputs = images_of(case, "pixel_values"), latents_of(case, "latents")
    tiled = autoencoder_of(case, options=ConvolutionalOptions(tiling=Tiling(size, stride)))
    found = answers(tiled, *inputs)
    case.assert_close("latent", found["latent"])
    case.assert_close("sample", found["sample"])
