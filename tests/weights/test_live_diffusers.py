"""The same autoencoders in diffusers itself, on sizes drawn at random; needs PyTorch."""

import importlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rae_jax.models.autoencoders.rae import AutoencoderRAE
from tests.golden import recipe
from tests.models.compiled import run

pytestmark = [
    pytest.mark.torch,
    # Of libraries that the test imports, not of ours.
    pytest.mark.filterwarnings("ignore"),
]

TOLERANCE = 5e-5
FEW = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def configurations(draw, encoder_type):
    """Options of a small autoencoder; diffusers cannot build SigLIP2 with transformers 5."""
    patch = {"dinov2": 14, "mae": 16}[encoder_type]
    heads = draw(st.sampled_from([1, 2, 4]))
    side = draw(st.integers(2, 5))
    width = 64 * draw(st.integers(1, 2))
    mean = draw(st.sampled_from([None, "channel", "full"]))
    two_dimensional = draw(st.booleans())
    shapes = {
        (True, "channel"): (width, 1, 1),
        (True, "full"): (width, side, side),
        (False, "channel"): (width,),
        (False, "full"): (side * side, width),
    }
    statistics = {}
    if mean is not None:
        shape = shapes[two_dimensional, mean]
        statistics = {
            "latents_mean": (0.3 * recipe.uniform("mean", shape)).tolist(),
            "latents_std": (1.2 + 0.3 * recipe.uniform("std", shape)).tolist(),
        }
    return {
        "encoder_type": encoder_type,
        "encoder_hidden_size": width,
        "encoder_patch_size": patch,
        "encoder_num_hidden_layers": draw(st.integers(1, 2)),
        "decoder_hidden_size": 16 * heads,
        "decoder_num_hidden_layers": draw(st.integers(1, 2)),
        "decoder_num_attention_heads": heads,
        "decoder_intermediate_size": draw(st.sampled_from([24, 40])),
        "patch_size": draw(st.sampled_from([2, 4])),
        "encoder_input_size": patch * side,
        "reshape_to_2d": two_dimensional,
        "scaling_factor": draw(st.sampled_from([1.0, 0.7])),
        **statistics,
    }


def theirs(config):
    """Their module with recipe weights in every entry."""
    torch, diffusers = importlib.import_module("torch"), importlib.import_module("diffusers")
    module = diffusers.AutoencoderRAE(**config).eval()
    entries = module.state_dict()
    buffers = ("encoder_mean", "encoder_std", "_latents_mean", "_latents_std")
    drawn = {
        key: value if key in buffers else torch.from_numpy(recipe.weight(key, tuple(value.shape)))
        for key, value in entries.items()
    }
    module.load_state_dict(drawn)
    return module


def answers_of_theirs(module, images, latents):
    torch = importlib.import_module("torch")
    with torch.no_grad():
        made = module.encode(torch.from_numpy(images)).latent
        return made.numpy(), module.decode(torch.from_numpy(latents(made.shape))).sample.numpy()


def answers_of_ours(module, images, latents):
    made = np.asarray(run(module, jnp.asarray(np.moveaxis(images, 1, -1)), method="encode"))
    published = np.moveaxis(made, -1, 1) if made.ndim == 4 else made
    given = latents(published.shape)
    given = np.moveaxis(given, 1, -1) if given.ndim == 4 else given
    image = np.asarray(run(module, jnp.asarray(given), method="decode"))
    return published, np.moveaxis(image, -1, 1)


def assert_same(first, second):
    for ours, other in zip(first, second, strict=True):
        assert ours.shape == other.shape
        np.testing.assert_allclose(ours, other, rtol=0, atol=TOLERANCE * np.abs(other).max())


@pytest.mark.parametrize("encoder_type", ["dinov2", "mae"])
@FEW
@given(data=st.data())
def test_both_ways(encoder_type, data, tmp_path_factory):
    diffusers = importlib.import_module("diffusers")
    config = data.draw(configurations(encoder_type))
    folder = tmp_path_factory.mktemp("live")
    source = theirs(config)
    images = recipe.images("live", (2, 3, config["encoder_input_size"], 61))

    def latents(shape):
        return recipe.uniform("latents", shape)

    expected = answers_of_theirs(source, images, latents)
    source.save_pretrained(folder / "theirs")
    ours = AutoencoderRAE.from_pretrained(str(folder / "theirs"))
    assert_same(answers_of_ours(ours, images, latents), expected)
    ours.save_pretrained(folder / "ours")
    back, loading = diffusers.AutoencoderRAE.from_pretrained(
        folder / "ours", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
    again = answers_of_theirs(back.eval(), images, latents)
    for first, second in zip(again, expected, strict=True):
        np.testing.assert_array_equal(first, second)
    assert json.loads((folder / "ours" / "config.json").read_text())["encoder_type"] == encoder_type
