"""Latent statistics from work folder to files: whatever devices, interruptions and references."""

import dataclasses
import functools
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax import build
from rae_jax.checkpointing.claim import claimed
from rae_jax.configuration.errors import ConfigError
from rae_jax.data.sources.digits import Digits
from rae_jax.reconstruction.latent_statistics import BatchMoments, LatentStatistics
from rae_jax.training import latent_jobs
from rae_jax.training.latent_blocks import Blocks, Task
from rae_jax.weights.torch_files import read_torch, write_torch
from tests import pipeline
from tests.training import few_digits

COUNT, SIZE = 50, 8
SHAPE = (3, 3, 64)


@functools.cache
def features_of(count):
    """Features of the first digits, in float64."""
    source = Digits("train", image_size=48)
    images = np.stack([source[index]["image"] for index in range(count)])
    loaded = build.encoder(pipeline.stage1().autoencoder, build.Compute())
    mean, std = (np.float32(values) for values in dataclasses.astuple(loaded.preprocessing))
    pixels = (np.float32(images) / np.float32(255) - mean) / std
    return np.asarray(jax.jit(loaded.module)(jnp.asarray(pixels)), np.float64)


@pytest.fixture
def few(monkeypatch):
    return few_digits.in_place_of_all(monkeypatch, COUNT)


@pytest.fixture
def one_device(monkeypatch):
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)


def config(**changes):
    data = dataclasses.replace(pipeline.statistics().data, num_threads=0)
    return pipeline.statistics(**{"batch_size": SIZE, "data": data, **changes})


def compute(folder, **changes):
    return LatentStatistics.load(latent_jobs.compute_statistics(config(**changes), folder))


def assert_same_bits(statistics, other):
    assert statistics.count == other.count
    np.testing.assert_array_equal(statistics.mean, other.mean)
    np.testing.assert_array_equal(statistics.variance, other.variance)


def test_statistics_are_those_of_all_features_together(runs):
    statistics = LatentStatistics.load(runs / "statistics" / "latent_statistics.npz")
    features = features_of(1437)
    assert statistics.count == len(features)
    np.testing.assert_allclose(statistics.mean, features.mean(axis=0), rtol=0, atol=2e-6)
    np.testing.assert_allclose(statistics.variance, features.var(axis=0), rtol=2e-5)


def test_the_folder_holds_both_files_and_no_parts(runs):
    folder = runs / "statistics"
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "latent_statistics.npz", "lock", "stat.pt"}
    ours = LatentStatistics.load(folder / "latent_statistics.npz")
    published = read_torch(folder / "stat.pt")
    for name, values in (("mean", ours.mean), ("var", ours.variance)):
        assert published[name].dtype == np.float32
        np.testing.assert_array_equal(published[name], np.float32(values).transpose(2, 0, 1))
    assert set(published) == {"mean", "var"}


def test_statistics_that_are_there_are_not_computed_again(runs, monkeypatch):
    monkeypatch.setattr(build, "encoder", None)
    path = latent_jobs.compute_statistics(pipeline.statistics(batch_size=7), runs / "statistics")
    assert path == runs / "statistics" / latent_jobs.STATISTICS_FILE
    changed = dataclasses.replace(pipeline.statistics(), dtype="bfloat16")
    with pytest.raises(ValueError, match="dtype: 'float32' there, 'bfloat16' now"):
        latent_jobs.compute_statistics(changed, runs / "statistics")


def test_what_a_job_that_was_killed_at_its_end_left_out_is_made_up(few, tmp_path):
    statistics = compute(tmp_path)
    (tmp_path / "stat.pt").unlink()
    (tmp_path / "partial").mkdir()
    asked = few()
    assert_same_bits(compute(tmp_path), statistics)
    assert asked == []
    assert (tmp_path / "stat.pt").exists()
    assert not (tmp_path / "partial").exists()


def test_two_jobs_do_not_share_a_folder(few, tmp_path):
    few()
    with claimed(tmp_path), pytest.raises(ValueError, match="is in use by process"):
        compute(tmp_path)
    assert compute(tmp_path).count


def test_the_number_of_devices_changes_no_bit(few, monkeypatch, tmp_path):
    found = []
    for count in (1, 3, 8):
        monkeypatch.setattr(jax, "local_devices", lambda count=count: jax.devices()[:count])
        found.append(compute(tmp_path / str(count)))
    assert_same_bits(found[0], found[1])
    assert_same_bits(found[0], found[2])
    features = features_of(1437)[:COUNT]
    np.testing.assert_allclose(found[0].mean, features.mean(axis=0), rtol=0, atol=2e-6)
    np.testing.assert_allclose(found[0].variance, features.var(axis=0), rtol=2e-5)


@pytest.mark.parametrize("fail_at", [9, 33, 49])
def test_an_interrupted_job_goes_on_without_the_images_it_had(few, one_device, tmp_path, fail_at):
    whole = compute(tmp_path / "whole")
    asked = few(fail_at)
    with pytest.raises(OSError, match="the disk is gone"):
        compute(tmp_path / "cut", save_seconds=0.0)
    # The images of the last block that was whole may still have been on their way.
    there = max(fail_at // SIZE - 1, 0) * SIZE
    assert asked[:there] == list(range(there))
    asked = few()
    assert_same_bits(compute(tmp_path / "cut"), whole)
    assert min(asked) >= there
    assert not (tmp_path / "cut" / "partial").exists()


def test_parts_of_other_settings_or_of_another_encoder_are_refused(
    few, one_device, monkeypatch, tmp_path
):
    few(33)
    with pytest.raises(OSError, match="the disk is gone"):
        compute(tmp_path, save_seconds=0.0)
    few()
    with pytest.raises(ValueError, match="batch_size: 8 there, 7 now"):
        compute(tmp_path, batch_size=7)
    monkeypatch.setattr(build, "encoder_fingerprint", lambda encoder: "another")
    with pytest.raises(ValueError, match="part of other statistics: encoder '.*' there, 'another'"):
        compute(tmp_path)


def test_a_damaged_part_is_told_of_and_done_again(few, one_device, caplog, tmp_path):
    whole = compute(tmp_path / "whole")
    few(33)
    with pytest.raises(OSError, match="the disk is gone"):
        compute(tmp_path / "cut", save_seconds=0.0)
    (part,) = (tmp_path / "cut" / "partial").iterdir()
    part.write_bytes(part.read_bytes()[:-100])
    asked = few()
    with caplog.at_level(logging.WARNING):
        assert_same_bits(compute(tmp_path / "cut"), whole)
    assert f"{part} is damaged" in caplog.text
    assert min(asked) == 0


@pytest.mark.parametrize("ranks", [1, 2])
def test_momentum_averages_the_batches_of_each_rank_in_order(few, tmp_path, ranks):
    statistics = compute(tmp_path, momentum=0.1, momentum_ranks=ranks)
    features = features_of(1437)[:COUNT]
    batches = [features[start : start + SIZE] for start in range(0, COUNT, SIZE)]
    means, variances = np.zeros((ranks, *SHAPE)), np.ones((ranks, *SHAPE))
    for number, batch in enumerate(batches):
        rank = number % ranks
        means[rank] = 0.9 * means[rank] + 0.1 * batch.mean(axis=0)
        variances[rank] = 0.9 * variances[rank] + 0.1 * batch.var(axis=0)
    expected = variances.mean(axis=0) + means.var(axis=0)
    assert statistics.count == COUNT
    np.testing.assert_allclose(statistics.mean, means.mean(axis=0), rtol=0, atol=2e-6)
    np.testing.assert_allclose(statistics.variance, expected, rtol=2e-5)


def test_more_ranks_than_batches_are_refused(few, tmp_path):
    with pytest.raises(ValueError, match="momentum_ranks must be at most the number of batches, 7"):
        compute(tmp_path, momentum=0.1, momentum_ranks=8)
    with pytest.raises(ConfigError, match="momentum_ranks must be 1 without momentum"):
        config(momentum_ranks=2)


def test_images_may_not_be_changed_at_random():
    data = dataclasses.replace(config().data, horizontal_flip=True)
    with pytest.raises(ConfigError, match="because statistics are of every image once"):
        config(data=data)


def test_features_that_are_not_finite_are_named():
    blocks = Blocks(Task(COUNT, SIZE, "encoder"))
    zeros = np.zeros(SHAPE, np.float32)
    bad = BatchMoments(np.int32(2), zeros, zeros, np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(FloatingPointError, match="of the images number 48 to 49 are NaN"):
        blocks.add(6, bad)


def test_the_same_blocks_in_two_files_count_once(caplog, tmp_path):
    blocks = Blocks(Task(COUNT, SIZE, "encoder"))
    ones = np.ones(SHAPE, np.float32)
    blocks.add(2, BatchMoments(np.int32(8), ones, 0 * ones, ones))
    blocks.save(tmp_path / "a.npz")
    blocks.save(tmp_path / "b.npz")
    again = Blocks(Task(COUNT, SIZE, "encoder")).load(tmp_path)
    assert again.done().tolist() == [False, False, True, False, False, False, False]
    assert "b.npz holds blocks that another file holds too" in caplog.text


def test_blocks_that_no_file_holds_are_missed(few, monkeypatch, tmp_path):
    monkeypatch.setattr(Blocks, "save", lambda self, path: None)
    with pytest.raises(ValueError, match="7 of 7 blocks are not in .*; let --workdir be on a file"):
        compute(tmp_path)


def test_a_reference_is_compared_with(runs, few, tmp_path):
    theirs = runs / "statistics" / "latent_statistics.npz"
    ours = compute(tmp_path / "few", reference=str(runs / "statistics" / "stat.pt"))
    told = json.loads((tmp_path / "few" / "comparison.json").read_text())
    assert told["images"] == COUNT
    expected = ours.difference(LatentStatistics.load(theirs))
    for part in ("mean", "std"):
        assert told[part] == pytest.approx(expected[part], rel=1e-4)
        assert 0 < told[part]["mean_relative"] < told[part]["max_relative"]
    # The statistics are there, so only the comparison is made.
    compute(tmp_path / "few", reference=str(tmp_path / "few" / "latent_statistics.npz"))
    told = json.loads((tmp_path / "few" / "comparison.json").read_text())
    assert set(told["mean"].values()) == set(told["std"].values()) == {0.0}


def references(folder):
    zeros = np.zeros((2, 2, 64))
    LatentStatistics(1, zeros, zeros).save(folder / "shape.npz")
    LatentStatistics(1, np.zeros(SHAPE), np.ones(SHAPE), "another").save(folder / "encoder.npz")
    write_torch(folder / "keys.pt", {"mean": np.zeros((64, 3, 3), np.float32)})
    (folder / "text.npz").write_text("hello")
    (folder / "text.pt").write_text("hello")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none.npz", FileNotFoundError, "no latent statistics at .*none.npz"),
        ("none.pt", FileNotFoundError, "no latent statistics at .*none.pt"),
        ("text.npz", ValueError, "text.npz must be an npz with mean, variance and count"),
        ("text.pt", ValueError, "text.pt"),
        ("keys.pt", ValueError, "keys.pt must hold mean and var, it holds mean"),
        ("shape.npz", ValueError, r"the latents' shape \(3, 3, 64\) .*, got \(2, 2, 64\)"),
        ("encoder.npz", ValueError, "is of another encoder than these statistics"),
    ],
)
def test_what_cannot_be_compared_with_is_refused_before_the_folder_is_made(
    few, tmp_path, name, error, message
):
    references(tmp_path)
    with pytest.raises(error, match=message):
        compute(tmp_path / "run", reference=str(tmp_path / name))
    assert not (tmp_path / "run").exists()
