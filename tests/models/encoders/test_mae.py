import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.models.encoders.mae import MAEConfig, MAEEncoder
from tests.models.compiled import run
from tests.models.encoders.published import Published, pixels_of

SIZES = ["64x64", "96x96", "48x48", "32x80"]
TINY = MAEConfig(
    hidden_size=16, depth=2, num_heads=2, intermediate_size=24, patch_size=4, image_size=16
)


def with_affine(tokens, entries):
    """What the published encoder gives, whose final norm has a gain and a bias."""
    return np.asarray(tokens) * entries["layernorm.weight"] + entries["layernorm.bias"]


@pytest.fixture(scope="module")
def upstream():
    return Published("encoder_mae_tiny", "encoder_config.json", "entries")


@pytest.fixture(scope="module")
def transformers():
    return Published("transformers5_encoders_vit_mae", "", "entries")


@pytest.mark.parametrize("size", SIZES)
def test_features_match_upstream(upstream, size):
    upstream.case.assert_close(f"tokens_{size}", upstream.features(f"pixels_{size}"))


@pytest.mark.parametrize("size", SIZES[:2])
def test_hidden_states_match_upstream(upstream, size):
    states = upstream.hidden_states(f"pixels_{size}")
    upstream.case.assert_close(f"hidden_states_{size}", states)


@pytest.mark.parametrize("size", ["64x64", "96x48"])
def test_all_visible_matches_transformers(transformers, size):
    case = transformers.case
    pixels = pixels_of(case, f"pixels_{size}")
    order = jnp.asarray(case.output(f"{size}.ids_restore"), jnp.int32)
    tokens = run(transformers.encoder, pixels, order, method="encode_visible")
    affine = with_affine(tokens, transformers.entries)
    case.assert_close(f"{size}.last_hidden_state", affine)
    features = transformers.features(f"pixels_{size}")
    np.testing.assert_allclose(features, tokens[:, 1:], rtol=0, atol=1e-6)


def test_visible_patches_match_transformers():
    published = Published("transformers5_encoders_vit_mae_masked", "", "entries")
    case = published.case
    shuffled = np.argsort(case.output("64x64.ids_restore"), axis=1)
    visible = jnp.asarray(shuffled[:, :4], jnp.int32)
    np.testing.assert_array_equal(visible, np.argsort(case.input("noise"), axis=1)[:, :4])
    pixels = pixels_of(case, "pixels_64x64")
    tokens = run(published.encoder, pixels, visible, method="encode_visible")
    case.assert_close("64x64.last_hidden_state", with_affine(tokens, published.entries))


@pytest.mark.slow
def test_full_size_matches_upstream():
    Published("encoder_mae_base_full", "encoder_config.json", "entries").assert_full_size()


def test_initial_parameters_follow_the_published_code():
    encoder = MAEEncoder(
        MAEConfig(hidden_size=96, depth=2, num_heads=3, intermediate_size=384, image_size=64),
        dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )
    assert not np.any(encoder.position_table[0])
    assert np.isclose(float(encoder.class_token[...].std()), 0.02, rtol=0.3)
    kernel = encoder.blocks.mlp.up.kernel[...]
    assert np.isclose(float(kernel.std()), (2 / (96 + 384)) ** 0.5, rtol=0.02)
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
    content = TINY.to_hugging_face()
    del content["num_hidden_layers"], content["image_size"]
    with pytest.raises(ValueError, match="the MAE config lacks num_hidden_layers, image_size"):
        MAEConfig.from_hugging_face(content)
