"""AutoencoderDC against diffusers itself, on options drawn at random, in and out of files."""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rae_jax.models.autoencoders.dc import AutoencoderDC
from rae_jax.models.autoencoders.dc_config import DCConfig
from rae_jax.models.autoencoders.tiling import Tiling
from rae_jax.weights.autoencoder_dc import to_tensors
from tests.comparison import nchw_to_nhwc
from tests.golden import recipe
from tests.models.autoencoders.live import (
    FEW,
    assert_answers,
    assert_original_layout,
    read_by_diffusers,
    theirs,
)
from tests.models.autoencoders.test_dc import answers

pytestmark = [
    pytest.mark.torch,
    # Of libraries that the test imports, not of ours.
    pytest.mark.filterwarnings("ignore"),
]


@st.composite
def configurations(draw, published=False):
    """Options of a small autoencoder; `published` keeps to what the original layout can say."""
    count = draw(st.integers(2, 4))
    first = draw(st.integers(0, 2))

    def of_stages(values):
        return [draw(st.sampled_from(values)) for _ in range(count)]

    def widths():
        # Such that shortcuts can be made; not always multiples of the heads' width.
        found = [draw(st.sampled_from([8, 16]))]
        while len(found) < count:
            found.append(min(64, found[-1] * draw(st.sampled_from([1, 2, 4]))))
        return found

    scales = [[], [5]] if published else [[], [5], [3], [3, 5], [1, 7]]
    return {
        "latent_channels": draw(st.sampled_from([4, 8])),
        "attention_head_dim": draw(st.sampled_from([8] if published else [5, 8])),
        "encoder_block_types": of_stages(["ResBlock", "EfficientViTBlock"]),
        "decoder_block_types": of_stages(["ResBlock", "EfficientViTBlock"]),
        "encoder_block_out_channels": widths(),
        "decoder_block_out_channels": widths(),
        "encoder_layers_per_block": [first, *of_stages([1, 2])[1:]],
        "decoder_layers_per_block": [first, *of_stages([1, 2])[1:]],
        "encoder_qkv_multiscales": of_stages(scales),
        "decoder_qkv_multiscales": of_stages(scales),
        "upsample_block_type": draw(st.sampled_from(["pixel_shuffle", "interpolate"])),
        "downsample_block_type": draw(st.sampled_from(["pixel_unshuffle", "conv"])),
        "decoder_norm_types": of_stages(["rms_norm", "batch_norm"]),
        "decoder_act_fns": of_stages(["relu", "silu", "gelu", "mish", "swish", None]),
        "encoder_out_shortcut": draw(st.booleans()),
        "decoder_in_shortcut": draw(st.booleans()),
        "decoder_conv_act_fn": draw(st.sampled_from(["relu", "SiLU", "gelu"])),
        "scaling_factor": draw(st.sampled_from([1.0, 0.41407])),
    }


def inputs_of(config, height, width):
    """Images in [0, 1] and latents, NCHW."""
    step = 2 ** (len(config["encoder_block_out_channels"]) - 1)
    images = recipe.images("live", (2, 3, height * step, width * step))
    return images, recipe.uniform("latents", (2, config["latent_channels"], height, width))


def answers_of_theirs(module, images, latents):
    torch = importlib.import_module("torch")
    with torch.no_grad():
        made = module.encode(torch.from_numpy(2 * images - 1)).latent
        again, sample = (module.decode(z).sample for z in (made, torch.from_numpy(latents)))
    return {
        "latent": made.numpy(),
        "reconstruction": again.numpy(),
        "sample": sample.numpy(),
    }


def assert_same(module, images, latents, expected):
    found = answers(module, *(jnp.asarray(nchw_to_nhwc(values)) for values in (images, latents)))
    assert_answers(found, expected)


@FEW
@given(data=st.data())
def test_both_ways(data, tmp_path_factory):
    config = data.draw(configurations())
    folder = tmp_path_factory.mktemp("live")
    source = theirs(AutoencoderDC, config)
    inputs = inputs_of(config, data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)))
    expected = answers_of_theirs(source, *inputs)
    source.save_pretrained(folder / "theirs")
    ours = AutoencoderDC.from_pretrained(folder / "theirs")
    assert_same(ours, *inputs, expected)
    ours.save_pretrained(folder / "ours")
    back = read_by_diffusers(AutoencoderDC, folder / "ours")
    assert DCConfig.read(dict(back.config)).write() == ours.config.write()
    for name, values in answers_of_theirs(back, *inputs).items():
        np.testing.assert_array_equal(values, expected[name])


@FEW
@given(data=st.data())
def test_tiles(data, tmp_path_factory):
    config = data.draw(configurations())
    step = 2 ** (len(config["encoder_block_out_channels"]) - 1)
    sizes = [data.draw(st.integers(2, 4)) for _ in range(2)]
    strides = [data.draw(st.integers(1, size)) for size in sizes]
    folder = tmp_path_factory.mktemp("live")
    source = theirs(AutoencoderDC, config)
    source.save_pretrained(folder)
    source.enable_tiling(*(step * side for side in (*sizes, *strides)))
    # Cut on at least one side.
    inputs = inputs_of(config, sizes[0] + data.draw(st.integers(1, 3)), 1 + sizes[1])
    tiling = Tiling(*(tuple(step * side for side in pair) for pair in (sizes, strides)))
    ours = AutoencoderDC.from_pretrained(folder, tiling=tiling)
    assert_same(ours, *inputs, answers_of_theirs(source, *inputs))


@FEW
@given(data=st.data())
def test_original_layout(data, tmp_path_factory):
    config = data.draw(configurations(published=True))
    # The converter tells the two kinds of first step by one key alone.
    config["downsample_block_type"] = "pixel_unshuffle"
    source, folder = theirs(AutoencoderDC, config), tmp_path_factory.mktemp("live")
    ours, again = assert_original_layout(AutoencoderDC, source, to_tensors, folder)
    assert again.config == ours.config == DCConfig.read(ours.config.write())
