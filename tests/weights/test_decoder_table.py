"""The table of RAE decoders: strictness and round trips."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.models.decoders.vit_decoder import DecoderConfig, ViTDecoder
from rae_jax.weights.convert import WeightError, export, load
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
