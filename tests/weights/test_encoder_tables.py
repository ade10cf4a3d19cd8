"""Tables of the encoders: names of transformers 4 and 5, strictness, round trips."""

import re

import numpy as np
import pytest

from rae_jax.weights.convert import WeightError, export, load
from rae_jax.weights.pretrained import encoder_config, encoder_from_config, encoder_table
from tests.comparison import load_case

CASES = {
    "dinov2": ("transformers5_encoders_dinov2", "", "entries"),
    "dinov2_swiglu": ("transformers5_encoders_dinov2_swiglu", "", "entries"),
    "dinov2_registers": ("encoder_dinov2_reg_tiny", "encoder_config.json", "encoder_entries"),
    "siglip_tower": ("transformers5_encoders_siglip", "", "entries"),
    "siglip_both": ("encoder_siglip2_tiny", "encoder_config.json", "entries"),
    "mae": ("transformers5_encoders_vit_mae", "", "entries"),
    "mae_decoder": ("encoder_mae_tiny", "encoder_config.json", "entries"),
}
UNUSED = {
    "dinov2": ("embeddings.mask_token", "layernorm."),
    "siglip": ("post_layernorm.", "head.", "text_model.", "logit_"),
    "mae": ("layernorm.", "decoder.", "mask_token"),
}


class File:
    """A published file: its configuration and entries, and what the encoder does not use."""

    def __init__(self, name):
        case, config, entries = CASES[name]
        self.case = load_case(case)
        self.config = encoder_config(self.case.config[config] if config else self.case.config)
        self.entries = self.case.entries(entries)
        unused = UNUSED[name.split("_")[0]]
        # Norms inside blocks are called `layernorm_before` and the like.
        self.used = {
            key: value
            for key, value in self.entries.items()
            if not any(key.removeprefix("vit.").startswith(start) for start in unused)
            and not any(key.removeprefix("vision_model.").startswith(start) for start in unused)
        }

    def read(self, entries, prefix=""):
        table = encoder_table(self.config, entries, prefix=prefix)
        return load(table, entries, encoder_from_config(self.config, dtype="float32"))


@pytest.fixture(scope="module", params=CASES)
def file(request):
    return File(request.param)


def assert_same_bits(written, read):
    assert set(written) == set(read)
    for key, array in written.items():
        assert array.dtype == read[key].dtype
        np.testing.assert_array_equal(array, read[key], err_msg=key)


def test_round_trip(file):
    encoder = file.read(file.entries)
    written = export(encoder_table(file.config, file.entries), encoder)
    assert_same_bits(written, file.used)
    assert len(file.used) < len(file.entries)


@pytest.mark.parametrize("style", ["transformers4", "transformers5"])
@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_files_in_either_style_are_read_and_written(file, style, prefix):
    encoder = file.read(file.entries)
    table = encoder_table(file.config, prefix=prefix, style=style)
    written = export(table, encoder)
    assert all(key.startswith(prefix) for key in written)
    again = file.read(written, prefix)
    plain = encoder_table(file.config)
    assert_same_bits(export(plain, again), export(plain, encoder))


@pytest.mark.parametrize("name", ["dinov2", "dinov2_swiglu", "mae", "siglip_tower"])
def test_names_of_transformers_5_are_those_of_its_modules(name):
    file = File(name)
    names = file.case.statement["names_in_memory"]
    names = set(file.entries if isinstance(names, str) else names)
    written = set(
        export(encoder_table(file.config, style="transformers5"), file.read(file.entries))
    )
    assert written < names
    left = {re.sub(r"^(head|layernorm|post_layernorm)\..*", r"\1", key) for key in names - written}
    assert left <= {"head", "layernorm", "post_layernorm", "embeddings.mask_token"}


def test_only_what_is_known_to_be_unused_is_ignored(file):
    key = next(iter(file.used))
    start = key[: key.index("embeddings")]
    for surplus in (f"{start}pooler.weight", f"{start}encoder.norm.weight", "embedding", "x"):
        with pytest.raises(WeightError, match=f"^1 mismatch[^$]*surplus entry {surplus}"):
            file.read(file.entries | {surplus: np.ones(3, np.float32)})


def test_every_entry_is_needed(file):
    entries = {key: value for key, value in file.entries.items() if key not in file.used}
    with pytest.raises(WeightError, match=f"^{len(file.used)} mismatches") as error:
        file.read(entries)
    assert set(re.findall("missing entry ([^ ]+) ", str(error.value))) == set(file.used)


def test_registers_of_a_model_that_has_none_are_surplus():
    file = File("dinov2")
    entries = file.entries | {"embeddings.register_tokens": np.zeros((1, 4, 32), np.float32)}
    with pytest.raises(WeightError, match="surplus entry embeddings.register_tokens"):
        file.read(entries)
