import pytest

from rae_jax.models.autoencoders.dc_config import RELEASED, DCConfig
from tests.comparison import load_case
from tests.models.autoencoders.dc import SINGLE_FILES, TINY

IN = load_case("autoencoder_dc_tiny_in").config


@pytest.mark.parametrize("name", [*TINY, *SINGLE_FILES])
def test_options_come_back(name):
    config = DCConfig.read(load_case(f"autoencoder_dc_{name}").config)
    assert DCConfig.read(config.write()) == config


def test_defaults_are_those_of_diffusers():
    config = DCConfig.read({"_class_name": "AutoencoderDC"})
    assert config == DCConfig()
    assert config.compression == 32


def test_one_value_serves_all_stages():
    options = {"encoder_block_types": "ResBlock", "decoder_act_fns": "ReLU"}
    config = DCConfig.read(IN | options)
    assert {stage.block_type for stage in config.encoder_stages} == {"ResBlock"}
    assert {stage.activation for stage in config.decoder_stages} == {"relu"}


def test_compression_of_the_releases():
    for name, config in RELEASED.items():
        assert f"-f{config.compression}c{config.latent_channels}-" in name


@pytest.mark.parametrize(
    "change, message",
    [
        ({"_class_name": "AutoencoderKL"}, "_class_name must be 'AutoencoderDC'"),
        ({"latent_chanels": 8}, "entries that AutoencoderDC does not have: latent_chanels"),
        ({"in_channels": 4}, "in_channels must be 3, got 4"),
        ({"latent_channels": 0}, "latent_channels must be a whole number above 0, got 0"),
        ({"latent_channels": True}, "latent_channels must be a whole number above 0, got True"),
        ({"scaling_factor": 0}, "scaling_factor must be above 0, got 0"),
        ({"scaling_factor": None}, "scaling_factor must be a number, got None"),
        ({"encoder_out_shortcut": 1}, "encoder_out_shortcut must be true or false, got 1"),
        ({"upsample_block_type": "bilinear"}, "one of 'pixel_shuffle', 'interpolate', got"),
        ({"downsample_block_type": ["conv"]}, "downsample_block_type must be a name, got"),
        ({"decoder_conv_act_fn": "tanh"}, "decoder_conv_act_fn must be one of 'relu', "),
        ({"decoder_act_fns": "tanh"}, "activation of stage 0 of the decoder must be one of"),
        ({"decoder_norm_types": "layer_norm"}, "must be one of 'rms_norm', 'batch_norm', got"),
        ({"encoder_block_types": "Block"}, "block type of stage 0 of the encoder must be one of"),
        ({"decoder_block_types": ["ResBlock"]}, "must have 4 entries, one per stage, got 1"),
        ({"encoder_block_out_channels": [8, 8, 8]}, "same number of stages, .* got 3 and 4"),
        ({"encoder_block_out_channels": [8, 8, 8, "8"]}, "must be a list of whole numbers"),
        ({"encoder_qkv_multiscales": [5, 5, 5, 5]}, "must be lists of whole numbers"),
        ({"encoder_qkv_multiscales": [[], [], [], [4]]}, r"must be odd, got \[4\]"),
        ({"encoder_layers_per_block": [1, 1, 0, 1]}, "every stage but the first, .* 2 has 0"),
        ({"attention_head_dim": 48}, "at most the channels of stage 2 of the encoder, 32, got 48"),
        ({"decoder_block_out_channels": [12, 16, 32, 48]}, "shortcut .* got 32 and 48"),
        ({"encoder_block_out_channels": [12, 18, 24, 48]}, r"multiples of 4 .* got \[18\]"),
        ({"latent_channels": 24}, "latent_channels must divide .* encoder_out_shortcut, got 24"),
    ],
)
def test_options_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DCConfig.read(IN | change)
