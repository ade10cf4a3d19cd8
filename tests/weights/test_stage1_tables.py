"""The tables of MAE encoders and RAE decoders: strictness and round trips."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import abstract
from rae_jax.models.decoders.vit_decoder import DecoderConfig, ViTDecoder
from rae_jax.models.encoders.mae import MAEConfig, MAEEncoder
from rae_jax.weights.convert import WeightError, export, load
from rae_jax.weights.tables.mae import mae_prefix, mae_table
from rae_jax.weights.tables.vit_decoder import VIT_DECODER
from tests.comparison import load_case
from tests.golden import recipe
from tests.models.compiled import filled

DECODER = DecoderConfig(
    hidden_size=48,
    depth=3,
    num_heads=4,
    intermediate_size=96,
    latent_channels=40,
    grid=(4, 4),
    patch_size=8,
)


def mae_files():
    with_decoder = load_case("encoder_mae_tiny")
    plain = load_case("transformers5_encoders_vit_mae")
    return {
        "vit.": (with_decoder.config["encoder_config.json"], with_decoder.entries()),
        "": (plain.config, plain.entries()),
    }


def mae_of(config):
    config = MAEConfig.from_hugging_face(config)
    return abstract(lambda: MAEEncoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))


def decoder():
    return filled(lambda: ViTDecoder(DECODER, dtype=jnp.float32, rngs=nnx.Rngs(0)))


def decoder_entries(*, positions=True):
    entries = load_case("decoder_tiny").entries("decoder_entries")
    if positions:
        entries["decoder_pos_embed"] = recipe.weight("decoder_pos_embed", (1, 17, 48))
    return entries


def assert_same_bits(written, read):
    assert set(written) == set(read)
    for key, array in written.items():
        assert array.dtype == read[key].dtype
        np.testing.assert_array_equal(array, read[key], err_msg=key)


@pytest.mark.parametrize("prefix", ["vit.", ""])
def test_mae_round_trip(prefix):
    config, entries = mae_files()[prefix]
    assert mae_prefix(entries) == prefix
    table = mae_table(config["patch_size"], prefix)
    written = export(table, load(table, entries, mae_of(config)))
    assert_same_bits(written, {k: v for k, v in entries.items() if not table.ignores(k)})


@pytest.mark.parametrize("prefix", ["vit.", ""])
def test_mae_ignores_only_what_is_known_to_be_unused(prefix):
    config, entries = mae_files()[prefix]
    table = mae_table(config["patch_size"], prefix)
    entries = entries | {"mask_token": np.zeros((1, 1, 8)), f"{prefix}pooler.weight": np.ones(3)}
    with pytest.raises(WeightError, match=r"(?s)^1 mismatches.*surplus entry \S*pooler.weight"):
        load(table, entries, mae_of(config))


def test_decoder_round_trip():
    entries = decoder_entries()
    assert_same_bits(export(VIT_DECODER, load(VIT_DECODER, entries, decoder())), entries)


def test_decoder_keeps_its_own_positions_if_the_file_has_none():
    model = decoder()
    before = np.asarray(model.position_table[...])
    load(VIT_DECODER, decoder_entries(positions=False), model)
    np.testing.assert_array_equal(model.position_table[...], before)


def test_every_missing_entry_is_listed():
    entries = decoder_entries()
    for key in ("decoder_norm.bias", "decoder_layers.1.attention.attention.key.weight"):
        del entries[key]
    message = r"(?s)^2 mismatches.*layers\.1\.attention\.attention\.key.*decoder_norm\.bias"
    with pytest.raises(WeightError, match=message):
        load(VIT_DECODER, entries, decoder())
