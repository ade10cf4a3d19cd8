"""Every kind of published file: entries in, the same bits out, and the tables that go with them."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import abstract
from rae_jax.models.decoders.vit_decoder import ViTDecoder
from rae_jax.models.denoisers.dit_dh import DiTDH
from rae_jax.models.denoisers.lightning_dit import LightningDiT
from rae_jax.porting.models import FileSizes
from rae_jax.weights import convert
from rae_jax.weights.pretrained import encoder_config, encoder_from_config
from rae_jax.weights.registry import KINDS, Statistics
from tests.comparison import load_case
from tests.golden import recipe
from tests.models.denoisers.published import dit_dh_config, lightning_dit_config
from tests.weights.test_convert import assert_same_bits
from tests.weights.test_decoder_table import DECODER, decoder_entries


def encoder():
    case = load_case("transformers5_encoders_dinov2")
    module = encoder_from_config(encoder_config(case.config), dtype="float32")
    used = convert.report(KINDS["encoder"].table(module), entries := case.entries(), module).rows
    return module, {row.source: entries[row.source] for row in used if row.target}


def decoder():
    module = abstract(lambda: ViTDecoder(DECODER, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    return module, decoder_entries()


def statistics():
    blank = np.zeros((4, 3, 2), np.float32)
    shapes = {"mean": (2, 4, 3), "var": (2, 4, 3)}
    return abstract(lambda: Statistics(blank, blank)), recipe.state_dict(shapes)


def denoiser(make, config, name):
    """With recipe values for what the original constructs, too."""
    case = load_case(name)
    shapes = {key: value for key, value in case.statement["entries"].items() if "rope" not in key}
    sizes = config(case.config)
    module = abstract(lambda: make(sizes, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    return module, recipe.state_dict(shapes)


EXAMPLES = {
    "encoder": encoder,
    "decoder": decoder,
    "statistics": statistics,
    "dit_dh": lambda: denoiser(DiTDH, dit_dh_config, "ditdh_tiny"),
    "lightning_dit": lambda: denoiser(LightningDiT, lightning_dit_config, "lightningdit_tiny"),
}


def test_every_kind_has_an_example():
    assert EXAMPLES.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_kind_round_trips_bit_for_bit(kind):
    module, entries = EXAMPLES[kind]()
    table = KINDS[kind].table(module)
    # Zeros would come back from anywhere.
    assert all(np.abs(value).min() < np.abs(value).max() for value in entries.values())
    assert_same_bits(convert.export(table, convert.load(table, entries, module)), entries)


@pytest.mark.parametrize(
    ("make", "config", "name"),
    [
        (DiTDH, dit_dh_config, "ditdh_tiny"),
        (LightningDiT, lightning_dit_config, "lightningdit_tiny"),
        (LightningDiT, lightning_dit_config, "lightningdit_tiny_patch2"),
    ],
)
def test_exports_hold_every_entry_that_the_original_asks_for(make, config, name):
    kind = KINDS["dit_dh" if make is DiTDH else "lightning_dit"]
    module, entries = denoiser(make, config, name)
    case = load_case(name)
    constructed = kind.constructed(module)
    assert entries.keys() | constructed.keys() == case.statement["entries"].keys()
    for key, table in constructed.items():
        assert list(table.shape) == case.statement["entries"][key]
        if f"constructed.{key}" in case.answers:
            # Of cosines and sines, to the last digit but one of float32.
            np.testing.assert_allclose(
                table, case.answers[f"constructed.{key}"], rtol=0, atol=1.2e-7
            )


def test_no_rotary_tables_without_rotary_positions():
    case = load_case("ditdh_tiny")
    config = dit_dh_config(case.config | {"use_rope": False})
    module = abstract(lambda: DiTDH(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    assert KINDS["dit_dh"].constructed(module) == {}


def test_the_sizes_that_files_tell():
    decoders = FileSizes("decoder", decoder_entries())
    assert (decoders.channels(), decoders.patch_size(), decoders.grid()) == (40, 8, 4)
    assert FileSizes("decoder", decoder_entries(positions=False)).grid() is None
    _, entries = EXAMPLES["dit_dh"]()
    denoisers = FileSizes("dit_dh", entries)
    assert (denoisers.channels(), denoisers.patch_size(), denoisers.grid()) == (12, 1, 8)
    assert denoisers.label_rows() == 11
    module, entries = denoiser(LightningDiT, lightning_dit_config, "lightningdit_tiny_patch2")
    sizes = FileSizes("lightning_dit", entries)
    assert (sizes.channels(), sizes.patch_size(), sizes.grid()) == (12, 2, 8)
    assert sizes.has_sigma()
    del entries["pos_embed"]
    assert FileSizes("lightning_dit", entries).grid() is None
    with_rotary = entries | KINDS["lightning_dit"].constructed(module)
    assert FileSizes("lightning_dit", with_rotary).grid() == 8


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "has an entry x_embedder.proj.weight; this one has , ..."),
        ({"a": np.zeros(1), "b": np.zeros(1)}, "has an entry x_embedder.*; this one has a, b, ..."),
        ({"x_embedder.proj.weight": np.zeros((2, 3))}, r"must have 4 axes, got shape \(2, 3\)"),
    ],
)
def test_files_of_another_kind_are_told(entries, message):
    with pytest.raises(convert.WeightError, match=message):
        FileSizes("dit_dh", entries).channels()


def test_grids_must_be_square():
    with pytest.raises(convert.WeightError, match="pos_embed is of 63 places, which are no square"):
        FileSizes("dit_dh", {"pos_embed": np.zeros((1, 63, 4))}).grid()
