import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import abstract, freeze, split
from rae_jax.models.encoders.base import Encoder
from rae_jax.models.encoders.mae import MAEConfig, MAEEncoder
from rae_jax.weights.convert import load
from rae_jax.weights.tables.mae import mae_prefix, mae_table
from tests.comparison import load_case, nchw_to_nhwc
from tests.models.compiled import example, filled, run

SIZES = ["64x64", "96x96", "48x48", "32x80"]
TINY = MAEConfig(
    hidden_size=16, depth=2, num_heads=2, intermediate_size=24, patch_size=4, image_size=16
)


def encoder_of(config, entries):
    config = MAEConfig.from_hugging_face(config)
    encoder = abstract(lambda: MAEEncoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    return load(mae_table(config.patch_size, mae_prefix(entries)), entries, encoder)


def pixels_of(case, name):
    return jnp.asarray(nchw_to_nhwc(case.input(name)))


def with_affine(tokens, entries):
    """What the published encoder gives, whose final norm has a gain and a bias."""
    return np.asarray(tokens) * entries["layernorm.weight"] + entries["layernorm.bias"]


def tiny(*, dtype=jnp.float32, **changes):
    return filled(lambda: MAEEncoder(TINY, dtype=dtype, **changes, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def upstream():
    case = load_case("encoder_mae_tiny")
    return case, encoder_of(case.config["encoder_config.json"], case.entries())


@pytest.mark.parametrize("size", SIZES)
def test_features_match_upstream(upstream, size):
    case, encoder = upstream
    features = run(encoder, pixels_of(case, f"pixels_{size}"))
    height, width = (int(side) // 16 for side in size.split("x"))
    assert features.shape[1:3] == (height, width)
    case.assert_close(f"tokens_{size}", features.reshape(features.shape[0], -1, 48))


@pytest.mark.parametrize("size", SIZES[:2])
def test_hidden_states_match_upstream(upstream, size):
    case, encoder = upstream
    states = run(encoder, pixels_of(case, f"pixels_{size}"), method="hidden_states")
    case.assert_close(f"hidden_states_{size}", states)


@pytest.mark.parametrize("size", ["64x64", "96x48"])
def test_all_visible_matches_transformers(size):
    case = load_case("transformers5_encoders_vit_mae")
    entries = case.entries()
    encoder = encoder_of(case.config, entries)
    pixels = pixels_of(case, f"pixels_{size}")
    order = jnp.asarray(case.output(f"{size}.ids_restore"), jnp.int32)
    tokens = run(encoder, pixels, order, method="encode_visible")
    case.assert_close(f"{size}.last_hidden_state", with_affine(tokens, entries))
    features = run(encoder, pixels).reshape(2, -1, 32)
    np.testing.assert_allclose(features, tokens[:, 1:], rtol=0, atol=1e-6)


def test_visible_patches_match_transformers():
    case = load_case("transformers5_encoders_vit_mae_masked")
    entries = case.entries()
    shuffled = np.argsort(case.output("64x64.ids_restore"), axis=1)
    visible = jnp.asarray(shuffled[:, :4], jnp.int32)
    np.testing.assert_array_equal(visible, np.argsort(case.input("noise"), axis=1)[:, :4])
    encoder = encoder_of(case.config, entries)
    pixels = pixels_of(case, "pixels_64x64")
    tokens = run(encoder, pixels, visible, method="encode_visible")
    case.assert_close("64x64.last_hidden_state", with_affine(tokens, entries))


@pytest.mark.slow
def test_full_size_matches_upstream():
    case = load_case("encoder_mae_base_full")
    encoder = encoder_of(case.config["encoder_config.json"], case.entries())
    pixels = pixels_of(case, "pixels")
    tokens = np.asarray(run(encoder, pixels)).reshape(1, 256, 768)
    states = np.asarray(run(encoder, pixels, method="hidden_states"))
    case.assert_close("tokens", tokens[:, ::4, ::4])
    case.assert_close("hidden_states", states[:, :, ::16, ::16])
    case.assert_close("stats_tokens", [tokens.mean(), tokens.std(), np.abs(tokens).mean()])
    moments = [states.mean((1, 2, 3)), states.std((1, 2, 3)), np.abs(states).mean((1, 2, 3))]
    case.assert_close("stats_hidden_states", np.stack(moments, axis=1))


def test_weights_are_arguments_of_the_compiled_function():
    definition, weights = split(freeze(tiny()))
    pixels = example((2, 16, 16, 3))
    compiled = jax.jit(lambda weights, pixels: definition.merge(weights)(pixels))
    assert np.any(compiled(weights, pixels))
    zeros = jax.tree.map(jnp.zeros_like, weights)
    assert not np.any(compiled(zeros, pixels))
    assert compiled._cache_size() == 1


def test_separate_instances_share_one_definition():
    first, _ = split(tiny())
    second, _ = split(tiny())
    assert first.graphdef == second.graphdef


@functools.cache
def plainly_run():
    return run(tiny(), example((1, 16, 16, 3)))


@pytest.mark.parametrize("changes", [{"unroll": 2}, {"remat": "full"}, {"remat": "dots"}])
def test_ways_to_run_the_blocks_agree(changes):
    pixels = example((1, 16, 16, 3))
    np.testing.assert_allclose(run(tiny(**changes), pixels), run(tiny(), pixels), rtol=0, atol=1e-5)


def test_bfloat16_stays_close_and_gives_float32_features():
    pixels = example((2, 20, 12, 3))
    features = run(tiny(dtype=jnp.bfloat16), pixels)
    assert features.dtype == jnp.float32 and features.shape == (2, 5, 3, 16)
    np.testing.assert_allclose(features, run(tiny(), pixels), rtol=0, atol=0.1)


def test_initial_parameters_follow_the_published_code():
    encoder = MAEEncoder(
        MAEConfig(hidden_size=192, depth=2, num_heads=3, intermediate_size=768),
        dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )
    assert not np.any(encoder.position_table[0])
    assert np.isclose(float(encoder.class_token[...].std()), 0.02, rtol=0.2)
    kernel = encoder.blocks.mlp.up.kernel[...]
    assert np.isclose(float(kernel.std()), (2 / (192 + 768)) ** 0.5, rtol=0.02)
    assert not np.any(encoder.blocks.mlp.up.bias[...])
    assert np.any(kernel[0] != kernel[1])


def test_config_survives_the_round_trip():
    assert MAEConfig.from_hugging_face(TINY.to_hugging_face()) == TINY


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_act": "relu"}, "need hidden_act 'gelu', got 'relu'"),
        ({"qkv_bias": False}, "need qkv_bias True, got False"),
        ({"model_type": "vit"}, "need model_type 'vit_mae'"),
    ],
)
def test_unsupported_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MAEConfig.from_hugging_face(TINY.to_hugging_face() | change)


def test_incomplete_config_is_refused():
    with pytest.raises(ValueError, match="lacks num_hidden_layers, image_size"):
        MAEConfig.from_hugging_face(
            {
                "hidden_size": 8,
                "num_attention_heads": 2,
                "intermediate_size": 8,
                "patch_size": 4,
                "layer_norm_eps": 1e-12,
            }
        )


def test_it_is_an_encoder():
    assert isinstance(tiny(), Encoder)


def test_sides_that_the_patch_size_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="height 18 is not a multiple of patch_size 4"):
        tiny()(jnp.zeros((1, 18, 16, 3)))
