"""AutoencoderDC in its files: every entry, both ways, and what is refused."""

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest
from absl import logging
from flax import nnx
from safetensors.numpy import save_file

from rae_jax.models.autoencoders.dc import AutoencoderDC
from rae_jax.models.autoencoders.dc_config import RELEASED, DCConfig
from rae_jax.models.autoencoders.options import ConvolutionalOptions
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.autoencoders.tiling import Tiling
from rae_jax.pretrained import load_autoencoder, save_autoencoder
from rae_jax.sharding.mesh import make_mesh
from rae_jax.weights.autoencoder_dc import entry_shapes, find_config, to_tensors
from rae_jax.weights.convert import WeightError
from rae_jax.weights.readers import read_tensors
from rae_jax.weights.tables.autoencoder_dc import Layout
from rae_jax.weights.writers import write_json, write_tensors
from tests.comparison import GOLDEN, load_case
from tests.models.autoencoders.dc import (
    SINGLE_FILES,
    TINY,
    autoencoder_of,
    layout_of,
    tensors_of,
)

FULL = json.loads((GOLDEN / "autoencoder_dc_full_keys" / "case.json").read_text())


def same(one: AutoencoderDC, other: AutoencoderDC) -> bool:
    # As NumPy arrays: JAX would compile a comparison for every shape.
    leaves, others = (
        jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(m))) for m in (one, other)
    )
    return one.config == other.config and all(
        jax.tree.leaves(jax.tree.map(np.array_equal, leaves, others))
    )


@functools.cache
def shapes_of(name: str, layout: Layout) -> dict[str, tuple[int, ...]]:
    return entry_shapes(RELEASED[name], layout)


def folder_of(name: str, folder: pathlib.Path) -> pathlib.Path:
    case = load_case(f"autoencoder_dc_{name}")
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", case.config)
    write_tensors(folder / "diffusion_pytorch_model.safetensors", tensors_of(case))
    return folder


def file_of(name: str, folder: pathlib.Path) -> pathlib.Path:
    path = folder / "model.safetensors"
    write_tensors(path, tensors_of(load_case(f"autoencoder_dc_{name}")))
    return path


@pytest.mark.parametrize("name", FULL["config"])
@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_every_entry_of_the_releases(name, layout):
    listed = FULL["entries"][name if layout == "diffusers" else f"{name} original"]
    assert shapes_of(name, layout) == {key: tuple(shape) for key, shape in listed.items()}


def test_releases_are_those_of_diffusers():
    assert {name: DCConfig.read(config) for name, config in FULL["config"].items()} == {
        name: config for name, config in RELEASED.items() if "-mix-" not in name
    }
    factors = {name: config.scaling_factor for name, config in RELEASED.items()}
    assert factors == FULL["scaling_factor"]
    for name, config in RELEASED.items():
        sibling = RELEASED[name.replace("-mix-", "-in-")]
        assert dataclasses.replace(config, scaling_factor=sibling.scaling_factor) == sibling


@pytest.mark.parametrize("name", [*TINY, *SINGLE_FILES])
def test_entries_come_back_bit_for_bit(name):
    case = load_case(f"autoencoder_dc_{name}")
    tensors = tensors_of(case)
    written = to_tensors(autoencoder_of(case), layout_of(case))
    assert written.keys() == tensors.keys()
    for key, values in tensors.items():
        assert written[key].dtype == values.dtype, key
        np.testing.assert_array_equal(written[key], values, err_msg=key)


@pytest.mark.parametrize("name", SINGLE_FILES)
def test_original_files_give_the_entries_of_diffusers(name):
    case = load_case(f"autoencoder_dc_{name}")
    shapes = {key: tuple(shape) for key, shape in case.statement["diffusers_entries"].items()}
    written = to_tensors(autoencoder_of(case))
    assert {key: values.shape for key, values in written.items()} == shapes


@pytest.mark.parametrize("name", ["tiny", "tiny_in"])
def test_folders_come_back_bit_for_bit(name, tmp_path):
    source = folder_of(name, tmp_path / "source")
    loaded = AutoencoderDC.from_pretrained(source)
    loaded.save_pretrained(tmp_path / "written")
    for folder in (source, tmp_path / "written"):
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json",
            "diffusion_pytorch_model.safetensors",
        ]
    ours, theirs = (
        read_tensors(folder, "diffusion_pytorch_model") for folder in (tmp_path / "written", source)
    )
    assert set(ours) == set(theirs)
    assert all(ours[key].tobytes() == theirs[key].tobytes() for key in theirs)
    assert same(load_autoencoder(tmp_path / "written"), loaded)


def test_onto_a_mesh(tmp_path):
    folder = folder_of("tiny", tmp_path)
    mesh = make_mesh(data=1, fsdp=8)
    cut = AutoencoderDC.from_pretrained(folder, mesh=mesh)
    leaves = jax.tree.leaves(nnx.state(cut))
    assert all(leaf.sharding.mesh == mesh for leaf in leaves)
    assert any(not leaf.sharding.is_fully_replicated for leaf in leaves)
    assert same(cut, AutoencoderDC.from_pretrained(folder))


def test_single_files(tmp_path):
    case = load_case("autoencoder_dc_single_file_tiny_in")
    path = file_of("single_file_tiny_in", tmp_path)
    config = tmp_path / "config.json"
    write_json(config, case.config | {"scaling_factor": 0.25})
    tiling = Tiling((64, 64), (48, 48))
    loaded = AutoencoderDC.from_single_file(path, config=config, slice_size=2, tiling=tiling)
    assert loaded.config == DCConfig.read(case.config | {"scaling_factor": 0.25})
    assert loaded.options == ConvolutionalOptions(slice_size=2, tiling=tiling)
    for same_config in (str(tmp_path), loaded.config, loaded.config.write()):
        assert same(AutoencoderDC.from_single_file(path, config=same_config), loaded)
    # The weight file of diffusers is a single file too.
    loaded.save_pretrained(tmp_path / "folder")
    weights = tmp_path / "folder" / "diffusion_pytorch_model.safetensors"
    assert same(AutoencoderDC.from_single_file(weights, config=config), loaded)


def shape_only(monkeypatch, given: str) -> list[DCConfig]:
    """Files of published size as shapes: nothing is read, what would be built is noted."""
    built = []

    def note(config, tensors, loading, *, layout):
        built.append(config)
        assert {key: value.shape for key, value in tensors.items()} == shapes_of(given, layout)
        raise ValueError("only noted")

    monkeypatch.setattr("rae_jax.weights.autoencoder_dc.from_tensors", note)
    return built


@pytest.mark.parametrize(
    "name, layout, assumed",
    [
        ("dc-ae-f32c32-sana-1.0", "original", "dc-ae-f32c32-sana-1.0"),
        ("dc-ae-f32c32-in-1.0", "original", "dc-ae-f32c32-mix-1.0"),
        ("dc-ae-f64c128-in-1.0", "diffusers", "dc-ae-f64c128-mix-1.0"),
        ("dc-ae-f128c512-mix-1.0", "original", "dc-ae-f128c512-mix-1.0"),
    ],
)
def test_what_a_single_file_is_assumed_to_be(name, layout, assumed, monkeypatch):
    shapes = shapes_of(name, layout)
    blank = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    built, warnings = shape_only(monkeypatch, name), []
    monkeypatch.setattr("rae_jax.weights.readers.read_tensors", lambda path: blank)
    monkeypatch.setattr(logging, "warning", lambda text, *values: warnings.append(text % values))
    with pytest.raises(ValueError, match="only noted"):
        AutoencoderDC.from_single_file("model.safetensors")
    assert built == [RELEASED[assumed]]
    if "sana" in name:
        assert warnings == []
    else:
        (warning,) = warnings
        assert warning.startswith(f"{assumed} assumed")
        other = assumed.replace("mix", "in")
        for said in (other, RELEASED[other].scaling_factor, RELEASED[assumed].scaling_factor):
            assert str(said) in warning
        assert "config=" in warning


def test_a_config_by_the_name_of_its_release():
    assert find_config("dc-ae-f64c128-in-1.0").scaling_factor == 0.2889


def test_what_cannot_be_loaded(tmp_path):
    path = file_of("single_file_tiny", tmp_path)
    with pytest.raises(ValueError, match="no release has latents of 8 channels .* give config="):
        AutoencoderDC.from_single_file(path)
    with pytest.raises(FileNotFoundError, match="the releases are dc-ae-f32c32-sana-1.0, "):
        AutoencoderDC.from_single_file(path, config="dc-ae-f32c32-in-2.0")
    other = load_case("autoencoder_dc_single_file_tiny_in").config
    with pytest.raises(WeightError, match="missing entry encoder.project_in.conv.conv.weight"):
        AutoencoderDC.from_single_file(path, config=other)
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no AutoencoderDC: it has neither encoder.project_out"):
        AutoencoderDC.from_single_file(tmp_path / "other.safetensors")

    folder = folder_of("tiny", tmp_path / "folder")
    with pytest.raises(ValueError, match="holds AutoencoderDC, not AutoencoderRAE"):
        AutoencoderRAE.from_pretrained(folder)
    with pytest.raises(ValueError, match="style is of the encoders of a RAE"):
        save_autoencoder(tmp_path / "out", load_autoencoder(folder), style="transformers5")
    with pytest.raises(ValueError, match="a folder of diffusers takes subfolder; got weights"):
        load_autoencoder(folder, weights="raw")
    with pytest.raises(ValueError, match="multiples of 4, got .50, 50. and .40, 40."):
        load_autoencoder(folder, tiling=Tiling((50, 50), (40, 40)))
    write_json(folder / "config.json", {"_class_name": "AutoencoderTiny"})
    with pytest.raises(ValueError, match="must be one of AutoencoderRAE, .*AutoencoderTiny"):
        load_autoencoder(folder)
