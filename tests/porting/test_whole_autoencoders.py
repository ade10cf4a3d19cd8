"""Folders of diffusers through the porting tools."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rae_jax.configuration.schema import as_dict
from rae_jax.porting.models import of_kind
from rae_jax.weights import convert as weights_convert
from rae_jax.weights.convert import WeightError
from rae_jax.weights.registry import KINDS
from rae_jax.weights.torch_files import write_torch
from tests import pipeline
from tests.comparison import load_case
from tests.models.compiled import filled
from tests.porting.test_round_trips import convert, export
from tests.weights.test_autoencoders import CASE, STEM, write_folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_folder(load_case(CASE), tmp_path_factory.mktemp("published") / "rae")


def entries(folder):
    return load_file(folder / f"{STEM}.safetensors")


def test_a_folder_of_diffusers_comes_back_bit_for_bit(published, tmp_path):
    request = {"kind": "autoencoder", "source": published, "output": tmp_path / "new"}
    lines = convert(dry_run=True, **request)[1:]
    # The decoder's positions are in no such file.
    rows = [line.split()[0] for line in lines if not line.endswith("constructed")]
    assert len(rows) == len(lines) - 1
    assert sorted(rows) == sorted(entries(published))
    assert not (tmp_path / "new").exists()
    (said,) = convert(**request)
    assert said.endswith("verified bit for bit")
    export("autoencoder", tmp_path / "new", tmp_path / "again", verify=True)
    first, last = entries(published), entries(tmp_path / "again")
    assert last.keys() <= first.keys()
    for key, array in last.items():
        np.testing.assert_array_equal(array, first[key], err_msg=key)
    assert {"decoder.decoder_pred.weight", "_latents_mean"} < last.keys()


def test_what_does_not_fit_is_listed(published, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text((published / "config.json").read_text())
    tensors = entries(published)
    del tensors["decoder.decoder_pred.bias"]
    tensors["extra"] = np.zeros(2, np.float32)
    save_file(tensors, tmp_path / "bad" / f"{STEM}.safetensors")
    request = {"kind": "autoencoder", "source": tmp_path / "bad", "output": tmp_path / "new"}
    for dry_run in (True, False):
        with pytest.raises(WeightError, match="(?s)2 mismatches.*pred.bias.*surplus entry extra"):
            convert(dry_run=dry_run, **request)
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_a_denoiser_on_a_folder_of_diffusers(published, tmp_path):
    config = pipeline.stage2(tmp_path)
    shape = load_case(CASE).config
    channels = shape["encoder_hidden_size"]
    side = shape["encoder_input_size"] // shape["encoder_patch_size"]
    model = of_kind("dit_dh", config, (side, side, channels))
    module = filled(model.make)
    tensors = weights_convert.export(KINDS["dit_dh"].table(module), module)
    write_torch(tmp_path / "stage2_model.pt", tensors)
    convert(
        kind="dit_dh",
        source=tmp_path / "stage2_model.pt",
        output=tmp_path / "denoiser",
        config=as_dict(config),
        autoencoder=published,
    )
    noted = json.loads((tmp_path / "denoiser" / "config.json").read_text())["config"]
    assert noted["autoencoder"]["pretrained"] == str(published)
    assert noted["autoencoder"]["checkpoint"] == ""
