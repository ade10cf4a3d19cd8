"""AutoencoderKL in its files: every entry, both ways, and what is refused."""

import json
import pathlib

import jax
import numpy as np
import pytest
from absl import logging
from flax import nnx
from safetensors.numpy import save_file

from rae_jax.models.autoencoders.dc import AutoencoderDC
from rae_jax.models.autoencoders.kl import AutoencoderKL
from rae_jax.models.autoencoders.kl_config import RELEASED, KLConfig
from rae_jax.pretrained import load_autoencoder
from rae_jax.weights.autoencoder_kl import entry_shapes, find_config, to_tensors
from rae_jax.weights.convert import WeightError
from rae_jax.weights.readers import read_tensors
from rae_jax.weights.torch_files import write_torch
from rae_jax.weights.writers import write_json, write_tensors
from tests.comparison import GOLDEN, load_case
from tests.models.autoencoders.kl import SINGLE_FILES, TINY, autoencoder_of, layout_of

FULL = json.loads((GOLDEN / "autoencoder_kl_full_keys" / "case.json").read_text())


def same(one: AutoencoderKL, other: AutoencoderKL) -> bool:
    leaves, others = (nnx.to_pure_dict(nnx.state(module)) for module in (one, other))
    return one.config == other.config and all(
        jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), leaves, others))
    )


def folder_of(name: str, folder: pathlib.Path) -> pathlib.Path:
    case = load_case(f"autoencoder_kl_{name}")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", case.config)
    write_tensors(folder / "diffusion_pytorch_model.safetensors", case.entries())
    return folder


@pytest.mark.parametrize("name", FULL["config"])
@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_every_entry_of_the_releases(name, layout):
    listed = FULL["entries"][name if layout == "diffusers" else f"{name} original"]
    shapes = entry_shapes(KLConfig.read(FULL["config"][name]), layout)
    assert shapes == {key: tuple(shape) for key, shape in listed.items()}


def test_releases_are_those_of_diffusers():
    names = {"sd-vae-ft-mse": "sd-vae-ft-mse", "FLUX.1-vae": "flux-vae"}
    assert set(names) == set(FULL["config"])
    for theirs, ours in names.items():
        assert KLConfig.read(FULL["config"][theirs]) == RELEASED[ours]
    # Those of SDXL and SD3 differ from them in numbers alone.
    for one, other in (("sdxl-vae", "sd-vae-ft-mse"), ("sd3-vae", "flux-vae")):
        assert entry_shapes(RELEASED[one]) == entry_shapes(RELEASED[other])


@pytest.mark.parametrize("name", [*TINY, *SINGLE_FILES])
def test_entries_come_back_bit_for_bit(name):
    case = load_case(f"autoencoder_kl_{name}")
    tensors = case.entries()
    module = autoencoder_of(case)
    written = to_tensors(module, layout_of(case))
    assert written.keys() == tensors.keys()
    for key, values in tensors.items():
        np.testing.assert_array_equal(written[key], values, err_msg=key)
    if "diffusers_entries" in case.statement:
        listed = case.statement["diffusers_entries"]
        shapes = {key: values.shape for key, values in to_tensors(module).items()}
        assert shapes == {key: tuple(shape) for key, shape in listed.items()}


@pytest.mark.parametrize("name", ["tiny", "tiny_noquant", "tiny_deprecated_names"])
def test_folders_come_back(name, tmp_path):
    loaded = AutoencoderKL.from_pretrained(folder_of(name, tmp_path / "source"))
    loaded.save_pretrained(tmp_path / "written")
    written = read_tensors(tmp_path / "written", "diffusion_pytorch_model")
    assert not any(".query." in key for key in written)
    assert same(load_autoencoder(tmp_path / "written"), loaded)


def test_a_pipeline_has_it_in_a_subfolder(tmp_path):
    folder_of("tiny", tmp_path / "pipeline" / "vae")
    loaded = AutoencoderKL.from_pretrained(tmp_path / "pipeline", subfolder="vae")
    assert same(loaded, AutoencoderKL.from_pretrained(tmp_path / "pipeline" / "vae"))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_single_files(suffix, prefix, tmp_path):
    case = load_case("autoencoder_kl_single_file_tiny")
    tensors = {prefix + key: values for key, values in case.entries().items()}
    if prefix:
        tensors["model.diffusion_model.out.weight"] = np.zeros(3, np.float32)
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        write_torch(path, {"state_dict": tensors})
    else:
        write_tensors(path, tensors)
    loaded = AutoencoderKL.from_single_file(path, config=case.config)
    assert same(loaded, autoencoder_of(case))


@pytest.mark.parametrize(
    "name, layout, assumed",
    [
        ("sdxl-vae", "original", "sd-vae-ft-mse"),
        ("sd-vae-ft-mse", "diffusers_deprecated", "sd-vae-ft-mse"),
        ("sd3-vae", "original", "flux-vae"),
    ],
)
def test_what_a_single_file_is_assumed_to_be(name, layout, assumed, monkeypatch):
    shapes = entry_shapes(RELEASED[name], layout)
    blank = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    built, warnings = [], []

    def note(config, tensors, loading, *, layout):
        built.append((config, layout))
        raise ValueError("only noted")

    monkeypatch.setattr("rae_jax.weights.autoencoder_kl.from_tensors", note)
    monkeypatch.setattr("rae_jax.weights.readers.read_tensors", lambda path: blank)
    monkeypatch.setattr(logging, "warning", lambda text, *values: warnings.append(text % values))
    with pytest.raises(ValueError, match="only noted"):
        AutoencoderKL.from_single_file("model.safetensors")
    assert built == [(RELEASED[assumed], layout)]
    (warning,) = warnings
    assert warning.startswith(f"{assumed} assumed")
    for said in (name, RELEASED[name].scaling_factor, RELEASED[assumed].scaling_factor, "config="):
        assert str(said) in warning


def test_a_config_by_the_name_of_its_release():
    assert find_config("sdxl-vae").scaling_factor == 0.13025


def test_what_cannot_be_loaded(tmp_path):
    case = load_case("autoencoder_kl_single_file_tiny_noquant")
    path = tmp_path / "model.safetensors"
    write_tensors(path, case.entries())
    with pytest.raises(FileNotFoundError, match="the releases are sd-vae-ft-mse, "):
        AutoencoderKL.from_single_file(path, config="sd-vae-3")
    other = load_case("autoencoder_kl_single_file_tiny").config
    with pytest.raises(WeightError, match="missing entry .*quant_conv.weight"):
        AutoencoderKL.from_single_file(path, config=other)
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no AutoencoderKL: it has neither encoder.mid_block"):
        AutoencoderKL.from_single_file(tmp_path / "other.safetensors")
    tiny = load_case("autoencoder_kl_single_file_tiny_noquant").entries()
    tiny["decoder.conv_in.weight"] = np.zeros((32, 5, 3, 3), np.float32)
    write_tensors(path, tiny)
    with pytest.raises(ValueError, match="no release has latents of 5 channels .* give config="):
        AutoencoderKL.from_single_file(path)
    folder = folder_of("tiny", tmp_path / "folder")
    with pytest.raises(ValueError, match="holds AutoencoderKL, not AutoencoderDC"):
        AutoencoderDC.from_pretrained(folder)
