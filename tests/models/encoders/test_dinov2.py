import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.models.encoders.dinov2 import DINOv2Config, DINOv2Encoder
from tests.models.encoders.published import Published

SIZES = ["70x70", "56x56", "98x98", "42x84"]
TRANSFORMERS = ["dinov2", "dinov2_swiglu", "dinov2_with_registers"]
TINY = DINOv2Config(hidden_size=16, depth=2, num_heads=2, patch_size=4, image_size=16)
PLAIN = DINOv2Config(num_registers=None)
SWIGLU = DINOv2Config(hidden_size=32, num_registers=0, use_swiglu=True, layer_scale=1e-5)


@pytest.fixture(scope="module")
def upstream():
    return Published("encoder_dinov2_reg_tiny", "encoder_config.json", "encoder_entries")


@pytest.fixture(scope="module")
def swiglu():
    return Published(
        "encoder_dinov2_reg_tiny", "swiglu_encoder_config.json", "swiglu_encoder_entries"
    )


@pytest.mark.parametrize("size", SIZES)
def test_features_match_upstream(upstream, size):
    upstream.case.assert_close(f"tokens_{size}", upstream.features(f"pixels_{size}"))


@pytest.mark.parametrize("size", SIZES[:2])
def test_hidden_states_match_upstream(upstream, size):
    states = upstream.hidden_states(f"pixels_{size}")
    upstream.case.assert_close(f"hidden_states_{size}", states)


def test_registers_and_class_token_are_dropped_before_the_published_norm(upstream):
    tokens = upstream.normed_states("pixels_70x70")
    assert upstream.encoder.num_prefix_tokens == 5
    upstream.case.assert_close("affine_tokens_70x70", tokens[:, 5:])


@pytest.mark.parametrize("size", SIZES[:2])
def test_swiglu_matches_upstream(swiglu, size):
    swiglu.case.assert_close(f"swiglu_tokens_{size}", swiglu.features(f"pixels_{size}"))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_tokens_match_transformers(name):
    published = Published(f"transformers5_encoders_{name}", "", "entries")
    assert published.encoder.antialias == ("registers" in name or "swiglu" in name)
    for size in (call["name"] for call in published.case.statement["calls"]):
        tokens = published.normed_states(f"pixels_{size}")
        published.case.assert_close(f"{size}.last_hidden_state", tokens)
        published.case.assert_close(f"{size}.pooler_output", tokens[:, 0])


@pytest.mark.slow
def test_full_size_matches_upstream():
    Published("encoder_base_full", "encoder_config.json", "entries").assert_full_size()


@pytest.mark.parametrize("config", [TINY, PLAIN, SWIGLU], ids=["registers", "plain", "swiglu"])
def test_config_survives_the_round_trip(config):
    content = config.to_hugging_face()
    assert DINOv2Config.from_hugging_face(content) == config
    model = "Dinov2Model" if config is PLAIN else "Dinov2WithRegistersModel"
    assert content["architectures"] == [model]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_act": "relu"}, "DINOv2 encoders need hidden_act 'gelu', got 'relu'"),
        ({"qkv_bias": False}, "need qkv_bias True, got False"),
        ({"image_size": [518, 518]}, r"image_size of the DINOv2 config must be a number, got \["),
    ],
)
def test_unsupported_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DINOv2Config.from_hugging_face(TINY.to_hugging_face() | change)


def test_number_of_registers_must_be_given():
    content = TINY.to_hugging_face()
    del content["num_register_tokens"]
    with pytest.raises(ValueError, match="the DINOv2 config lacks num_register_tokens"):
        DINOv2Config.from_hugging_face(content)


@pytest.mark.long
def test_initial_parameters_follow_the_published_code():
    config = DINOv2Config(hidden_size=96, depth=2, num_heads=3, image_size=56, layer_scale=1e-5)
    encoder = DINOv2Encoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    normal = (
        encoder.class_token,
        encoder.registers,
        encoder.position_table,
        encoder.patch_embedding.projection.kernel,
        encoder.blocks.attention.qkv.kernel,
        encoder.blocks.mlp.down.kernel,
    )
    for leaf in normal:
        assert np.isclose(float(leaf[...].std()), 0.02, rtol=0.2)
    assert not np.any(encoder.blocks.mlp.up.bias[...])
    np.testing.assert_array_equal(encoder.blocks.scale_1.gain[...], np.full((2, 96), 1e-5, "f"))
    kernel = encoder.blocks.mlp.up.kernel[...]
    assert np.any(kernel[0] != kernel[1])
