import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.models.encoders.siglip2 import SigLIP2Config, SigLIP2Encoder
from tests.models.encoders.published import Published

SIZES = ["64x64", "96x96", "48x48", "32x80"]
SO400M = SigLIP2Config(
    hidden_size=1152, depth=27, num_heads=16, intermediate_size=4304, patch_size=14, image_size=384
)


@pytest.fixture(scope="module")
def upstream():
    return Published("encoder_siglip2_tiny", "encoder_config.json", "entries")


@pytest.mark.parametrize("size", SIZES)
def test_features_match_upstream(upstream, size):
    upstream.case.assert_close(f"tokens_{size}", upstream.features(f"pixels_{size}"))


@pytest.mark.parametrize("size", SIZES[:2])
def test_hidden_states_match_upstream(upstream, size):
    states = upstream.hidden_states(f"pixels_{size}")
    upstream.case.assert_close(f"hidden_states_{size}", states)


def test_tokens_match_transformers():
    published = Published("transformers5_encoders_siglip", "", "entries")
    assert published.encoder.num_prefix_tokens == 0
    for size in ("64x64", "48x80"):
        tokens = published.normed_states(f"pixels_{size}")
        published.case.assert_close(f"{size}.last_hidden_state", tokens)


@pytest.mark.slow
def test_full_size_matches_upstream():
    Published("encoder_siglip2_base_full", "encoder_config.json", "entries").assert_full_size()


def test_config_survives_the_round_trip():
    content = SO400M.to_hugging_face()
    assert SigLIP2Config.from_hugging_face(content) == SO400M
    assert SO400M.grid == (27, 27)
    # Without the flag transformers would make a pooling head of random weights.
    assert content["vision_use_head"] is False


def test_files_of_both_towers_leave_out_what_is_default():
    content = {
        "model_type": "siglip",
        "text_config": {"hidden_size": 8, "hidden_act": "relu"},
        "vision_config": {"model_type": "siglip_vision_model", "image_size": 256},
    }
    assert SigLIP2Config.from_hugging_face(content) == SigLIP2Config(image_size=256)
    assert SigLIP2Config.from_hugging_face({"model_type": "siglip"}) == SigLIP2Config()


def test_unsupported_configs_are_refused():
    content = SO400M.to_hugging_face() | {"hidden_act": "gelu"}
    with pytest.raises(ValueError, match="need hidden_act 'gelu_pytorch_tanh', got 'gelu'"):
        SigLIP2Config.from_hugging_face(content)


def test_initial_parameters_follow_the_published_code():
    config = SigLIP2Config(hidden_size=96, depth=2, num_heads=3, intermediate_size=384)
    encoder = SigLIP2Encoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert np.isclose(float(encoder.position_table[...].std()), 96**-0.5, rtol=0.05)
    kernel = encoder.blocks.mlp.up.kernel[...]
    assert np.isclose(float(kernel.std()), (2 / (96 + 384)) ** 0.5, rtol=0.02)
    assert not np.any(encoder.blocks.mlp.up.bias[...])
    assert np.any(kernel[0] != kernel[1])
