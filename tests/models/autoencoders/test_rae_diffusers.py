import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import split
from rae_jax.models.autoencoders.rae_config import (
    RAEConfig,
    statistics_to_file,
    statistics_to_grid,
)
from rae_jax.models.autoencoders.tiling import Tiling
from rae_jax.models.compute import Compute
from rae_jax.sharding.mesh import batch_sharding, make_mesh, replicated
from rae_jax.weights.autoencoders import Loading
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.models.autoencoders.diffusers import TINY, autoencoder_of
from tests.models.compiled import example, run


def inputs_of(case, name):
    values = case.input(name)
    return jnp.asarray(nchw_to_nhwc(values) if values.ndim == 4 else values)


def published(values):
    return nhwc_to_nchw(values) if values.ndim == 4 else values


@pytest.mark.parametrize("name", TINY)
def test_answers_are_those_of_diffusers(name):
    case = load_case(f"diffusers_rae_tiny_{name}")
    autoencoder = autoencoder_of(case)
    definition, weights = split(autoencoder)

    @jax.jit
    def answers(weights, images, native, latents):
        module = definition.merge(weights)
        return {
            "latent": module.encode(images),
            "latent_native": module.encode(native),
            "sample": module.decode(latents),
            "reconstruction": module(images),
        }

    inputs = [inputs_of(case, name) for name in ("pixel_values", "native_values", "latents")]
    for output, values in answers(weights, *inputs).items():
        case.assert_close(output, published(values))
    case.assert_close("decoder_pos_embed", autoencoder.decoder.position_table[...][None])


def test_zeros_would_not_pass():
    for name in TINY:
        case = load_case(f"diffusers_rae_tiny_{name}")
        for output in ("latent", "latent_native", "sample", "reconstruction"):
            tolerance = case.statement["outputs"][output]["tolerance"]
            assert np.abs(case.output(output)).max() > 1000 * tolerance
    autoencoder = autoencoder_of(load_case("diffusers_rae_tiny_dinov2"))
    for path, leaf in nnx.to_flat_state(nnx.state(autoencoder)):
        assert np.abs(np.asarray(leaf[...])).max() > 0, path


@pytest.mark.parametrize("slice_size", [1, 2, 8])
def test_slices_give_the_same(slice_size):
    case = load_case("diffusers_rae_tiny_mae_tf5names")
    whole, sliced = autoencoder_of(case), autoencoder_of(case, Loading(slice_size=slice_size))
    images = jnp.concatenate([inputs_of(case, "pixel_values")] * 3)[:3]
    for method in ("encode", "__call__"):
        expected = run(whole, images, method=method)
        np.testing.assert_allclose(run(sliced, images, method=method), expected, atol=2e-6)


def test_slices_need_less_memory():
    case = load_case("diffusers_rae_tiny_mae_tf5names")

    def memory(slice_size):
        definition, state = nnx.split(autoencoder_of(case, Loading(slice_size=slice_size)))
        images = jax.ShapeDtypeStruct((32, 64, 64, 3), "float32")
        compiled = jax.jit(lambda s, i: nnx.merge(definition, s)(i)).lower(state, images).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(4) < 0.5 * memory(None)


def test_bfloat16_stays_close():
    """Measured: 1.6 % of the deviation of latents, 1.5 % of that of images."""
    case = load_case("diffusers_rae_tiny_dinov2")
    autoencoder = autoencoder_of(case, Loading(Compute("bfloat16")))
    for method, given, output in (
        ("encode", "pixel_values", "latent"),
        ("decode", "latents", "sample"),
    ):
        values = published(run(autoencoder, inputs_of(case, given), method=method))
        assert values.dtype == np.float32
        drift = np.sqrt(np.square(values - case.output(output)).mean()) / case.output(output).std()
        assert 1e-4 < drift < 0.04, drift


def test_training_noise_comes_with_a_key():
    case = load_case("diffusers_rae_tiny_mae_tf5names")
    case.config["noise_tau"] = 0.5
    autoencoder, images = autoencoder_of(case), inputs_of(case, "native_values")
    clean = run(autoencoder, images, method="encode")
    noisy = run(autoencoder, images, jax.random.key(0), method="encode")
    case.assert_close("latent_native", published(clean))
    assert 1e-3 < np.abs(noisy - clean).mean() < 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, "_class_name must be 'AutoencoderRAE', got 'Autoenc"),
        ({"encoder_type": "clip"}, "encoder_type must be one of dinov2, siglip2, mae, got 'clip'"),
        ({"norm": 1, "tau": 2}, "does not have: norm, tau"),
        ({"encoder_input_size": 100}, "encoder_input_size must be a multiple of 16, got 100"),
        ({"encoder_hidden_size": 100}, "encoder_hidden_size must be a multiple of 64"),
        ({"decoder_num_attention_heads": 5}, "decoder_hidden_size must be a multiple of 5"),
        ({"image_size": 40}, r"image_size must be 16 .* or null, got 40"),
        ({"num_channels": 4}, "num_channels must be 3, got 4"),
        ({"patch_size": 0}, "patch_size must be a whole number above 0, got 0"),
        ({"encoder_hidden_size": "64"}, "encoder_hidden_size must be a whole number above 0"),
        ({"decoder_num_attention_heads": 0}, "decoder_num_attention_heads must be a whole number"),
        ({"encoder_norm_std": [1.0, 2.0]}, "encoder_norm_std must hold three numbers"),
    ],
)
def test_what_does_not_fit_is_told(changes, message):
    content = load_case("diffusers_rae_tiny_mae_tokens").config | changes
    with pytest.raises(ValueError, match=message):
        RAEConfig.read(content)


def test_configurations_are_written_as_read():
    for name in TINY:
        content = load_case(f"diffusers_rae_tiny_{name}").config
        written = RAEConfig.read(content).write()
        assert written == {k: v for k, v in content.items() if k != "_diffusers_version"}


@pytest.mark.parametrize(
    ("shape", "reshape_to_2d", "ours"),
    [
        ((1,), True, (1, 1, 1)),
        ((5, 1, 1), True, (1, 1, 5)),
        ((5, 2, 3), True, (2, 3, 5)),
        ((1,), False, (1, 1, 1)),
        ((5,), False, (1, 1, 5)),
        ((6, 5), False, (2, 3, 5)),
    ],
)
def test_statistics_of_every_shape_come_back(shape, reshape_to_2d, ours):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    there = statistics_to_grid(values, (2, 3), reshape_to_2d=reshape_to_2d)
    assert there.shape == ours
    back = statistics_to_file(there, reshape_to_2d=reshape_to_2d)
    np.testing.assert_array_equal(back, values)


def test_statistics_of_other_shapes_are_refused():
    for shape, reshape_to_2d in (((5,), True), ((5, 2, 3), False), ((4, 5), False)):
        with pytest.raises(ValueError, match="latent statistics must be one number or"):
            statistics_to_grid(np.zeros(shape), (2, 3), reshape_to_2d=reshape_to_2d)


def test_a_batch_cut_over_devices_stays_cut_in_slices():
    """Measured on the program: no array of the whole batch is gathered."""
    autoencoder = autoencoder_of(
        load_case("diffusers_rae_tiny_mae_tf5names"), Loading(slice_size=8)
    )
    definition, weights = split(autoencoder)
    mesh = make_mesh()
    images = jax.device_put(0.5 + 0.2 * example((16, 64, 64, 3)), batch_sharding(mesh))
    whole = jax.device_put(weights, replicated(mesh))
    compiled = jax.jit(lambda w, i: definition.merge(w)(i)).lower(whole, images).compile()
    assert "all-gather" not in compiled.as_text()
    made = compiled(whole, images)
    assert made.sharding.is_equivalent_to(batch_sharding(mesh), made.ndim)
    expected = run(autoencoder_of(load_case("diffusers_rae_tiny_mae_tf5names")), images)
    np.testing.assert_allclose(made, expected, rtol=0, atol=2e-6)


def test_tokens_of_another_shape_are_told():
    autoencoder = autoencoder_of(load_case("diffusers_rae_tiny_mae_tokens"))
    with pytest.raises(ValueError, match=r"tokens must have the shape \(16, 64\), got \(9, 64\)"):
        autoencoder.decode(jnp.zeros((1, 9, 64)))


def test_statistics_with_a_batch_axis():
    values = np.arange(30, dtype=np.float32).reshape(1, 6, 5)
    there = statistics_to_grid(values, (2, 3), reshape_to_2d=False)
    np.testing.assert_array_equal(there, values.reshape(2, 3, 5))


def test_it_has_no_tiles():
    case = load_case("diffusers_rae_tiny_mae_tf5names")
    with pytest.raises(ValueError, match="images of one size, so it has no tiles"):
        autoencoder_of(case, Loading(tiling=Tiling()))
