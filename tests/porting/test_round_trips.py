"""Runs of this project to published files and back: the same weights, samples and images."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from rae_jax.checkpointing.experiment import checkpoint_folder
from rae_jax.checkpointing.partial_restore import read_arrays, read_metadata
from rae_jax.configuration.schema import as_dict
from rae_jax.data.sources.digits import Digits
from rae_jax.porting.exporting import export_file
from rae_jax.porting.importing import convert_file
from rae_jax.porting.plans import Request
from rae_jax.reconstruction.latent_statistics import LatentStatistics
from rae_jax.sampling.reconstruct import Reconstructor
from rae_jax.sampling.samples import make_samples
from rae_jax.weights.readers import read_tensors
from rae_jax.weights.torch_files import read_torch, write_torch
from tests import pipeline

STATISTICS = "statistics/latent_statistics.npz"
ENCODER = "builtin:digits_mae"


def export(*arguments, **options):
    said: list[str] = []
    export_file(*map(str, arguments), **options, say=said.append)
    return said


def convert(dry_run=False, verify=True, **request):
    said: list[str] = []
    request = {name: v if name == "config" else str(v) for name, v in request.items()}
    convert_file(Request(**request), dry_run=dry_run, verify=verify, say=said.append)
    return said


@pytest.fixture(scope="module")
def files(runs, tmp_path_factory):
    """The runs as published files."""
    folder = tmp_path_factory.mktemp("files")
    export("decoder", runs / "stage1", folder / "model.pt")
    export("decoder", runs / "stage1", folder / "training.pt", weights="both", verify=True)
    export("statistics", runs / STATISTICS, folder / "stat.pt", verify=True)
    export("dit_dh", runs / "stage2", folder / "stage2_model.pt", weights="both", verify=True)
    return folder


@pytest.fixture(scope="module")
def converted(runs, files, tmp_path_factory):
    """The published files as work folders."""
    folder = tmp_path_factory.mktemp("converted")
    convert(
        kind="decoder",
        source=files / "training.pt",
        output=folder / "stage1",
        config=as_dict(pipeline.stage1()),
    )
    convert(
        kind="statistics",
        source=files / "stat.pt",
        output=folder / "statistics.npz",
        encoder=ENCODER,
    )
    convert(
        kind="dit_dh",
        source=files / "stage2_model.pt",
        output=folder / "stage2",
        config=as_dict(pipeline.stage2(runs)),
        autoencoder=folder / "stage1",
        statistics=folder / "statistics.npz",
    )
    return folder


def arrays(workdir, step):
    read = read_arrays(checkpoint_folder(workdir), step)
    return {k: v for k, v in read.items() if k.split(".")[0] in ("params", "ema", "buffers")}


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_checkpoints_come_back_bit_for_bit(runs, converted, stage):
    ours, theirs = arrays(runs / stage, pipeline.STEPS), arrays(converted / stage, 0)
    assert ours.keys() == theirs.keys()
    for key, array in ours.items():
        assert array.tobytes() == theirs[key].tobytes(), key
    # The averaged weights are others than the last ones, so neither stands for the other.
    differs = [k for k in ours if k.startswith("ema") and (ours[k] != ours["params" + k[3:]]).any()]
    assert differs
    frozen = [
        read_metadata(checkpoint_folder(folder / stage))["frozen"] for folder in (runs, converted)
    ]
    assert frozen[0] == frozen[1]


def test_statistics_come_back(runs, converted):
    ours = LatentStatistics.load(runs / STATISTICS)
    theirs = LatentStatistics.load(converted / "statistics.npz")
    np.testing.assert_array_equal(ours.mean.astype(np.float32), theirs.mean)
    np.testing.assert_array_equal(ours.variance.astype(np.float32), theirs.variance)
    # The file of the release does not tell of how many images.
    assert (theirs.count, theirs.encoder) == (0, ours.encoder)


def test_a_converted_decoder_reconstructs_as_the_run_did(runs, converted):
    source = Digits("test", image_size=48)
    images = np.stack([source[index]["image"] for index in range(4)])
    ours, theirs = (Reconstructor(str(folder / "stage1"))(images) for folder in (runs, converted))
    np.testing.assert_array_equal(ours, theirs)
    assert ours.std() > 0


def test_a_converted_denoiser_samples_as_the_run_did(runs, converted, tmp_path):
    pictures = []
    for folder in (runs, converted):
        config = pipeline.sampling(folder, num_images=8)
        with np.load(make_samples(config, tmp_path / folder.name)) as samples:
            pictures.append(samples["arr_0"])
    np.testing.assert_array_equal(*pictures)
    assert pictures[0].std() > 0


def test_exports_are_what_the_original_reads(runs, files):
    flat, both = read_torch(files / "model.pt"), read_torch(files / "training.pt")
    assert set(both) == {"model", "ema"}
    assert set(flat) == set(both["ema"])
    for key, array in flat.items():
        np.testing.assert_array_equal(array, both["ema"][key])
    assert {"trainable_cls_token", "decoder_layers.0.attention.attention.query.weight"} < set(flat)
    denoiser = read_torch(files / "stage2_model.pt")["ema"]
    assert denoiser["dec_feat_rope.freqs_sin"].shape == (9, 8)
    assert denoiser["pos_embed"].shape == (1, 9, 16)
    statistics = read_torch(files / "stat.pt")
    assert {key: array.shape for key, array in statistics.items()} == {
        "mean": (64, 3, 3),
        "var": (64, 3, 3),
    }


def test_either_set_of_weights_stands_for_both_if_it_is_alone(files, tmp_path):
    for which in ("raw", "ema"):
        convert(
            kind="decoder",
            source=files / "training.pt",
            output=tmp_path / which,
            config=as_dict(pipeline.stage1()),
            weights=which,
            verify=which == "raw",
        )
        kept = arrays(tmp_path / which, 0)
        name = "model" if which == "raw" else "ema"
        published = read_torch(files / "training.pt")[name]["decoder_norm.bias"]
        for entry in ("params", "ema"):
            np.testing.assert_array_equal(kept[f"{entry}.decoder.norm.bias"], published)


def test_a_work_folder_tells_where_it_is_from(files, converted):
    noted = json.loads((converted / "stage1" / "config.json").read_text())
    assert noted == {"kind": "stage1", "config": json.loads(json.dumps(as_dict(pipeline.stage1())))}
    metadata = read_metadata(checkpoint_folder(converted / "stage1"))
    assert metadata["converted"] == str(files / "training.pt")
    assert not list(converted.glob("*.partial"))


def test_a_whole_autoencoder_under_training_gives_its_decoder(files, tmp_path):
    """What the original saves in stage 1: decoder and encoder below one root."""
    read = read_torch(files / "training.pt")
    content = {
        name: {f"module.decoder.{key}": array for key, array in tensors.items()}
        | {"module.encoder.model.weight": np.ones(2, np.float32)}
        for name, tensors in read.items()
    }
    write_torch(tmp_path / "epoch.pt", content | {"epoch": 3, "optimizer": {"state": {}}})
    said = convert(
        dry_run=True,
        kind="decoder",
        source=tmp_path / "epoch.pt",
        output=tmp_path / "decoder",
        config=as_dict(pipeline.stage1()),
    )
    assert [line for line in said if line.startswith("weights")] == ["weights: ema", "weights: raw"]
    assert not (tmp_path / "decoder").exists()


def test_dry_runs_show_the_way_of_every_entry(files, tmp_path):
    said = convert(
        dry_run=True,
        kind="dit_dh",
        source=files / "stage2_model.pt",
        output=tmp_path / "new",
        config=as_dict(pipeline.stage2(tmp_path)),
        weights="ema",
    )
    entries = read_torch(files / "stage2_model.pt")["ema"]
    shown = [line.split()[0] for line in said[2:]]
    assert said[0] == "weights: ema"
    assert sorted(shown) == sorted(entries)
    (row,) = [line for line in said if line.startswith("blocks.1.attn.qkv.weight")]
    assert row.split("  ")[-1] == "transpose"
    assert "head.attention.qkv.kernel[0]" in row and "(48, 16)" in row and "(16, 48)" in row
    assert not (tmp_path / "new").exists()


def test_encoders_become_folders_that_are_read_alike(tmp_path):
    source = pathlib.Path(pipeline.CONFIGS).parents[1] / "rae_jax" / "assets" / "digits_mae"
    with_bin = tmp_path / "with_bin"
    shutil.copytree(source, with_bin)
    tensors = dict(read_tensors(source))
    (with_bin / "model.safetensors").unlink()
    write_torch(with_bin / "pytorch_model.bin", tensors | {"decoder.mask": np.zeros(2)})
    said = convert(kind="encoder", source=with_bin, output=tmp_path / "new")
    assert said == [
        f"{tmp_path / 'new'}: the encoder of {with_bin}, without 1 of its entries, which no "
        "feature depends on, verified bit for bit"
    ]
    assert export("encoder", tmp_path / "new", tmp_path / "again", verify=True)
    for folder in ("new", "again"):
        written = read_tensors(tmp_path / folder)
        for key, array in tensors.items():
            np.testing.assert_array_equal(written[key], array)


def test_a_run_is_released_in_all_formats_at_once(runs, files, tmp_path):
    release = tmp_path / "release"
    statistics = str(runs / STATISTICS)
    first, last = export("release", runs / "stage1", release, statistics=statistics, verify=True)
    assert "without diffusers/, which cannot express this autoencoder" in first
    assert last.endswith("verified bit for bit")
    assert {path.name for path in release.iterdir()} == {"model.pt", "stat.pt", "encoder"}
    for name in ("model.pt", "stat.pt"):
        assert_same_entries(read_tensors(release / name), read_tensors(files / name))
    request = {"source": release / "model.pt", "encoder": release / "encoder"}
    config = as_dict(pipeline.stage1())
    convert(kind="decoder", output=tmp_path / "again", config=config, **request)


def assert_same_entries(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def test_only_a_stage_1_run_is_released(runs, tmp_path):
    with pytest.raises(ValueError, match="must hold a run of stage1, it holds one of stage2"):
        export("release", runs / "stage2", tmp_path / "release")
    assert not (tmp_path / "release").exists()
