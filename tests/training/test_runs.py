"""Whole runs of both stages, from work folder to checkpoint."""

import dataclasses
import json
import re

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rae_jax.build.meshes import frozen_shardings
from rae_jax.checkpointing.experiment import checkpoint_folder
from rae_jax.checkpointing.record import read_record
from rae_jax.configuration.schema import (
    ConfigError,
    EncoderConfig,
    GuidanceConfig,
    MeshConfig,
)
from rae_jax.data.sources.image_folder import read_image
from rae_jax.sharding.mesh import make_mesh
from rae_jax.sharding.rules import tree_shardings
from rae_jax.training import loop, run, stage1, stage2
from tests import pipeline

STATE = {"step", "skipped", "params", "buffers", "ema", "optimizer_state", "key"}


def record(run, step=pipeline.STEPS):
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(checkpoint_folder(run), options=options) as manager:
        return read_record(manager, step)


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_run_leaves_metrics_pictures_and_checkpoints(runs, stage):
    noted = json.loads((runs / stage / "config.json").read_text())
    assert noted["kind"] == stage
    assert list(losses(runs / stage)) == [1, 2, 3, 4]
    assert all(np.isfinite(loss) for loss in losses(runs / stage).values())
    assert names(checkpoint_folder(runs / stage)) == ["2", "4"]
    (picture,) = (runs / stage).rglob("*.png")
    # Eight columns of 48 pixels, lines of two between them.
    pixels = read_image(picture)
    assert pixels.shape == (2 * 50 + 2, 8 * 50 + 2, 3)
    assert pixels.std() > 5


@pytest.mark.parametrize("stage, models", [("stage1", {"decoder"}), ("stage2", set())])
def test_checkpoints_hold_nothing_frozen(runs, stage, models):
    leaves = record(runs / stage).leaves
    assert set(leaves) == STATE
    paths = [path for entry in leaves.values() for path in entry]
    assert not any("encoder" in path or "normalization" in path for path in paths)
    if models:
        assert {path.split(".")[0] for path in leaves["params"]} == models
    assert set(leaves["ema"]) == set(leaves["params"])


def config_of(stage, runs, steps=pipeline.STEPS, **changes):
    if stage is stage1:
        return pipeline.stage1(steps, **changes)
    return pipeline.stage2(runs, steps, **changes)


@pytest.mark.parametrize("stage", [stage1, stage2])
def test_a_run_in_two_halves_equals_an_unbroken_one_bit_for_bit(runs, stage, tmp_path):
    for steps in (2, pipeline.STEPS):
        stage.train(config_of(stage, runs, steps), tmp_path)
    unbroken = runs / stage.__name__.split(".")[-1]
    assert record(tmp_path).fingerprint == record(unbroken).fingerprint
    assert losses(tmp_path) == losses(unbroken)


@pytest.mark.long
def test_another_seed_gives_another_run(runs, tmp_path):
    stage1.train(pipeline.stage1(2, seed=1), tmp_path)
    there, here = record(runs / "stage1", 2).fingerprint, record(tmp_path, 2).fingerprint
    assert {name for name in STATE if there[name] == here[name]} <= {"step", "skipped", "buffers"}
    assert losses(tmp_path)[1] != losses(runs / "stage1")[1]


@pytest.mark.parametrize("stage", [stage1, stage2])
def test_a_finished_run_does_nothing(runs, stage, monkeypatch):
    folder = runs / stage.__name__.split(".")[-1]

    def forbidden(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(loop, "run", forbidden)
    before = (folder / "metrics.jsonl").read_bytes()
    assert stage.train(config_of(stage, runs), folder) == folder
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert names(checkpoint_folder(folder)) == ["2", "4"]


def test_the_folder_of_another_experiment_is_refused(runs):
    with pytest.raises(ValueError, match=r"ema_decay: 0.98 there, 0.5 now"):
        stage1.train(pipeline.stage1(ema_decay=0.5), runs / "stage1")
    with pytest.raises(ValueError, match="a run of kind 'stage1', not 'stage2'"):
        stage2.train(pipeline.stage2(runs), runs / "stage1")


def with_autoencoder(config, **changes):
    return dataclasses.replace(
        config, autoencoder=dataclasses.replace(config.autoencoder, **changes)
    )


def with_data(config, **changes):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


@pytest.mark.parametrize(
    "config, message",
    [
        (
            with_data(pipeline.stage1(), image_size=32),
            "decoder gives images of 48 pixels, but data.image_size is 32; set data.image_size=48",
        ),
        (
            with_autoencoder(
                pipeline.stage1(), encoder=EncoderConfig(path="builtin:digits_mae", input_size=40)
            ),
            "multiple of the encoder's patch size 16, got 40; the nearest below is 32",
        ),
        (
            pipeline.stage1(gradient_accumulation=2),
            "mesh.data x mesh.fsdp x gradient_accumulation = 16, got 8; the nearest above is 16",
        ),
        (
            pipeline.stage1(mesh=MeshConfig(fsdp=2, tensor=4)),
            "must divide autoencoder.decoder.num_heads = 2, got 4; set mesh.tensor=2",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_the_folder_is_made(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        stage1.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"checkpoint": "{runs}/none"}, FileNotFoundError, "no folder .*none"),
        ({"checkpoint": "{runs}/statistics"}, ValueError, "must hold a run of stage1, it holds"),
        ({"statistics": "{runs}/none.npz"}, FileNotFoundError, "no latent statistics at .*none"),
        ({"statistics": "{runs}/stage1/config.json"}, ValueError, "must be an npz with mean"),
    ],
)
def test_what_stage_2_needs_is_checked_before_the_folder_is_made(
    runs, changes, error, message, tmp_path
):
    changes = {name: value.format(runs=runs) for name, value in changes.items()}
    with pytest.raises(error, match=message):
        stage2.train(with_autoencoder(pipeline.stage2(runs), **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("frozen, share", [("cut", 1 / 8), ("whole", 1)])
def test_the_memory_that_each_part_takes_is_told(frozen, share):
    config = pipeline.stage1(mesh=MeshConfig(data=1, fsdp=8, frozen=frozen))
    job, mesh = stage1.make_job(config), make_mesh(1, 8, 1)
    shapes = jax.eval_shape(job.initial_state)
    shardings = tree_shardings(shapes, mesh, min_size=1)
    frozen_at = frozen_shardings(job.frozen, mesh, config.mesh)
    text = run.memory_report(shapes, shardings, job.frozen, frozen_at)
    shares = dict(re.findall(r"(\w+) [\d.]+ K?M?B \(([\d.]+)% of", text))
    assert list(shares) == ["params", "buffers", "ema", "optimizer_state", "frozen"]
    for name in ("params", "ema", "optimizer_state"):
        assert float(shares[name]) == pytest.approx(12.5, abs=0.5)
    assert float(shares["frozen"]) == pytest.approx(100 * share, abs=5)


def test_stage_2_trains_without_decoder_and_statistics(runs):
    job = stage2.make_job(with_autoencoder(pipeline.stage2(runs), checkpoint="", statistics=""))
    assert set(job.frozen) == {"encoder"}
    assert job.preview is None
    batch = {"images": np.zeros((8, 48, 48, 3), np.uint8), "labels": np.zeros(8, np.int32)}
    state = jax.eval_shape(job.initial_state)
    new, metrics = jax.eval_shape(job.step, state, job.frozen, batch)
    assert jax.tree.leaves(new) == jax.tree.leaves(state)
    assert set(metrics) == {"loss", "gradient_norm", "learning_rate"}


@pytest.mark.parametrize("stage", [stage1, stage2])
def test_a_bfloat16_run_keeps_weights_moments_and_averages_in_float32(runs, stage):
    job = stage.make_job(config_of(stage, runs, dtype="bfloat16"))
    batch = {"images": np.zeros((8, 48, 48, 3), np.uint8), "labels": np.zeros(8, np.int32)}
    state = jax.eval_shape(job.initial_state)
    new, metrics = jax.eval_shape(job.step, state, job.frozen, batch)
    kept = new.params, new.ema, new.optimizer_state, metrics
    types = {
        str(leaf.dtype) for leaf in jax.tree.leaves(kept) if leaf.shape or leaf.dtype != "int32"
    }
    assert types == {"float32"}
    program = str(jax.make_jaxpr(job.step)(state, job.frozen, batch))
    assert "bf16" in program


@pytest.mark.slow
def test_previews_are_drawn_guided_and_unguided(runs, tmp_path):
    guided = GuidanceConfig(method="classifier_free", scale=4.0)
    loop = dataclasses.replace(pipeline.LOOP, preview_every="1 steps")
    config = pipeline.stage2(runs, 1, preview_guidance=guided, loop=loop)
    stage2.train(config, tmp_path)
    pictures = {path.name: read_image(path) for path in tmp_path.rglob("*.png")}
    assert set(pictures) == {"samples_00000001.png", "guided_samples_00000001.png"}
    first, second = pictures.values()
    assert first.shape == second.shape


def test_guided_previews_need_a_null_label(runs):
    for method, dropout in (("autoguidance", 0.1), ("classifier_free", 0.0)):
        checkpoint = "somewhere" if method == "autoguidance" else ""
        guided = GuidanceConfig(method=method, checkpoint=checkpoint)
        with pytest.raises(ConfigError, match="preview_guidance.method must be 'none'"):
            pipeline.stage2(runs, preview_guidance=guided, label_dropout=dropout)
