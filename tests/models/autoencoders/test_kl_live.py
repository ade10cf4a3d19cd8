"""AutoencoderKL against diffusers itself, on options drawn at random, in and out of files."""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from rae_jax.models.autoencoders.kl import AutoencoderKL
from rae_jax.weights.autoencoder_kl import to_tensors
from tests.comparison import nchw_to_nhwc
from tests.golden import recipe
from tests.models.autoencoders.test_dc_live import FEW
from tests.models.autoencoders.test_kl import answers

pytestmark = [
    pytest.mark.torch,
    # Of libraries that the test imports, not of ours.
    pytest.mark.filterwarnings("ignore"),
]

TOLERANCE = 5e-5


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


def theirs(config):
    """Their module with recipe weights in every entry."""
    torch, diffusers = importlib.import_module("torch"), importlib.import_module("diffusers")
    module = diffusers.AutoencoderKL(**config).eval()
    module.load_state_dict(
        {
            key: torch.from_numpy(recipe.weight(key, tuple(value.shape)))
            for key, value in module.state_dict().items()
        }
    )
    return module


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
    diffusers = importlib.import_module("diffusers")
    config = data.draw(configurations())
    folder = tmp_path_factory.mktemp("live")
    source = theirs(config)
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
    for name, values in expected.items():
        atol = TOLERANCE * np.abs(values).max()
        np.testing.assert_allclose(found[name], values, rtol=0, atol=atol, err_msg=name)
    ours.save_pretrained(folder / "ours")
    back, loading = diffusers.AutoencoderKL.from_pretrained(
        folder / "ours", output_loading_info=True
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
    for key, value in source.state_dict().items():
        np.testing.assert_array_equal(back.state_dict()[key].numpy(), value.numpy(), err_msg=key)


@FEW
@given(data=st.data())
def test_original_layout(data, tmp_path_factory):
    diffusers = importlib.import_module("diffusers")
    config = data.draw(configurations()) | {"mid_block_add_attention": True}
    folder = tmp_path_factory.mktemp("live")
    source = theirs(config)
    source.save_pretrained(folder)
    ours = AutoencoderKL.from_pretrained(folder)
    save_file(to_tensors(ours, "original"), folder / "model.safetensors")
    read = diffusers.AutoencoderKL.from_single_file(
        str(folder / "model.safetensors"), config=str(folder)
    )
    for key, value in source.state_dict().items():
        np.testing.assert_array_equal(read.state_dict()[key].numpy(), value.numpy(), err_msg=key)
    again = AutoencoderKL.from_single_file(folder / "model.safetensors", config=folder)
    for key, value in to_tensors(again).items():
        np.testing.assert_array_equal(value, source.state_dict()[key].numpy(), err_msg=key)
