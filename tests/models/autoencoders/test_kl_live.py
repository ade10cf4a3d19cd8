"""AutoencoderKL against diffusers itself, on options drawn at random, in and out of files."""

import importlib

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rae_jax.models.autoencoders.kl import AutoencoderKL
from rae_jax.weights.autoencoder_kl import to_tensors
from tests.comparison import nchw_to_nhwc
from tests.golden import recipe
from tests.models.autoencoders.live import (
    FEW,
    assert_answers,
    assert_original_layout,
    assert_same_entries,
    read_by_diffusers,
    theirs,
)
from tests.models.autoencoders.test_kl import answers

pytestmark = [
    pytest.mark.torch,
    # Of libraries that the test imports, not of ours.
    pytest.mark.filterwarnings("ignore"),
]


@st.composite
def configurations(draw):
    """Options of a small autoencoder."""
    widths = [draw(st.sampled_from([8, 16, 24])) for _ in range(draw(st.integers(1, 3)))]
    channels = draw(st.sampled_from([3, 4, 8]))
    size = 2 ** (len(widths) - 1) * draw(st.sampled_from([4, 8]))
    return {
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": draw(st.integers(1, 2)),
        "act_fn": draw(st.sampled_from(["silu", "gelu", "relu", "mish"])),
        "latent_channels": channels,
        "norm_num_groups": draw(st.sampled_from([4, 8])),
        "sample_size": size,
        "scaling_factor": draw(st.sampled_from([0.18215, 1.0])),
        "shift_factor": draw(st.sampled_from([None, 0.1])),
        "use_quant_conv": draw(st.booleans()),
        "use_post_quant_conv": draw(st.booleans()),
        "mid_block_add_attention": draw(st.booleans()),
    }


def answers_of_theirs(module, images, latents):
    torch = importlib.import_module("torch")
    with torch.no_grad():
        posterior = module.encode(torch.from_numpy(2 * images - 1)).latent_dist
        again = module.decode(posterior.mode()).sample
        sample = module.decode(torch.from_numpy(latents)).sample
        found = {
            "mean": posterior.mean,
            "logvar": posterior.logvar,
            "kl": posterior.kl(),
            "reconstruction": again,
            "sample": sample,
        }
    return {name: value.numpy() for name, value in found.items()}


@FEW
@given(data=st.data())
def test_both_ways(data, tmp_path_factory):
    config = data.draw(configurations())
    folder = tmp_path_factory.mktemp("live")
    source = theirs(AutoencoderKL, config)
    source.save_pretrained(folder / "theirs")
    tiled = data.draw(st.booleans())
    ours = AutoencoderKL.from_pretrained(folder / "theirs")
    if tiled:
        source.enable_tiling()
        ours = AutoencoderKL.from_pretrained(folder / "theirs", tiling=ours.config.tiling)
    step = ours.config.compression
    side = config["sample_size"] // step + data.draw(st.integers(0, 3))
    images = recipe.images("live", (2, 3, side * step, (side + 1) * step))
    latents = recipe.uniform("latents", (2, config["latent_channels"], side, side + 1))
    expected = answers_of_theirs(source, images, latents)
    found = answers(ours, *(jnp.asarray(nchw_to_nhwc(values)) for values in (images, latents)))
    assert_answers(found, expected)
    ours.save_pretrained(folder / "ours")
    assert_same_entries(read_by_diffusers(AutoencoderKL, folder / "ours").state_dict(), source)


@FEW
@given(data=st.data())
def test_original_layout(data, tmp_path_factory):
    config = data.draw(configurations()) | {"mid_block_add_attention": True}
    source, folder = theirs(AutoencoderKL, config), tmp_path_factory.mktemp("live")
    assert_original_layout(AutoencoderKL, source, to_tensors, folder)
