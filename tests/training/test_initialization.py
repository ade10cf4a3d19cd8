"""Runs that begin with the weights of others."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from rae_jax import build
from rae_jax.build import STAGE1
from rae_jax.configuration.schema import OptimizerConfig, ScheduleConfig
from rae_jax.layers.functional import Buffer, split
from rae_jax.training import stage1, stage2
from rae_jax.training.initialization import initial_decoder, initial_denoiser
from rae_jax.weights import convert
from rae_jax.weights.registry import KINDS
from rae_jax.weights.torch_files import write_torch
from rae_jax.weights.writers import write_tensors
from tests import pipeline
from tests.training.transcribed import assert_trees_close

STILL = {
    "optimizer": OptimizerConfig(learning_rate=1e-12),
    "schedule": ScheduleConfig(kind="constant", warmup="0 steps"),
}


@pytest.fixture(scope="module")
def networks(runs):
    """The decoder and the denoiser of the runs, as modules and as (params, buffers)."""
    found = {}
    for name, config in (("stage1", pipeline.stage1()), ("stage2", pipeline.stage2(runs))):
        job = (stage1 if name == "stage1" else stage2).make_job(config)
        state = jax.eval_shape(job.initial_state)
        _, *trees = build.restore_model(str(runs / name), state.params, state.buffers)
        found[name] = (job, trees)
    return found


def module(networks, name):
    job, trees = networks[name]
    if name == "stage1":
        encoder = split(job.step.autoencoder(*trees, job.frozen).encoder)[1]
        return job.step.definition.merge(*trees, {"encoder": encoder}).decoder
    return job.step.denoiser.merge(*trees)


def written(folder, networks, name, suffix):
    network = module(networks, name)
    kind = KINDS["decoder" if name == "stage1" else "dit_dh"]
    tensors = convert.export(kind.table(network), network)
    path = folder / f"{name}{suffix}"
    if suffix == ".pt":
        write_torch(path, tensors)
    else:
        write_tensors(path, tensors)
    return str(path)


def assert_first_step_has(folder, config, networks, name):
    training = stage1 if name == "stage1" else stage2
    run = training.train(dataclasses.replace(config, duration="1 steps", **STILL), folder)
    job, trees = networks[name]
    state = jax.eval_shape(job.initial_state)
    for weights in ("raw", "ema"):
        _, *found = build.restore_model(str(run), state.params, state.buffers, weights=weights)
        assert_trees_close(found, trees, 1e-9)


@pytest.mark.parametrize("source", ["run", ".pt", ".safetensors"])
def test_a_decoder_is_taken_from_runs_and_files(runs, networks, tmp_path, source):
    name = str(runs / "stage1")
    if source != "run":
        name = written(tmp_path, networks, "stage1", source)
    config = pipeline.stage1(init_from=name, seed=3)
    decoder = module(networks, "stage1")
    params, buffers = initial_decoder(config, decoder)
    assert_trees_close((params, buffers), tuple(networks["stage1"][1]), 0)


@pytest.mark.parametrize("source", ["run", ".pt"])
def test_a_denoiser_is_taken_from_runs_and_files(runs, networks, tmp_path, source):
    name = str(runs / "stage2")
    if source != "run":
        name = written(tmp_path, networks, "stage2", source)
    config = pipeline.stage2(runs, init_from=name, seed=3)
    found = initial_denoiser(config, module(networks, "stage2"))
    assert_trees_close(found, tuple(networks["stage2"][1]), 0)


@pytest.mark.slow
def test_runs_begin_with_them(runs, networks, tmp_path):
    config = pipeline.stage1(init_from=str(runs / "stage1"), seed=3)
    assert_first_step_has(tmp_path / "first", config, networks, "stage1")
    config = pipeline.stage2(runs, init_from=str(runs / "stage2"), seed=3)
    assert_first_step_has(tmp_path / "second", config, networks, "stage2")


def test_a_decoder_of_another_grid_keeps_its_own_positions(runs, networks):
    config = pipeline.stage1(init_from=str(runs / "stage1"))
    encoder = build.encoder(config.autoencoder, build.Compute())
    wide = dataclasses.replace(
        config.autoencoder, encoder=dataclasses.replace(config.autoencoder.encoder, input_size=64)
    )
    decoder = build.decoder(wide, encoder, build.Compute(), rngs=nnx.Rngs(0))
    params, buffers = initial_decoder(config, decoder)
    assert_trees_close(params, networks["stage1"][1][0], 0)
    _, _, own = split(decoder, nnx.Param, Buffer)
    np.testing.assert_array_equal(buffers["decoder"]["position_table"], own["position_table"])


def test_other_sizes_are_refused_before_the_folder_is_made(runs, tmp_path):
    config = pipeline.stage1(init_from=str(runs / "stage1"))
    section = config.autoencoder
    wider = dataclasses.replace(section.decoder, hidden_size=32)
    config = dataclasses.replace(config, autoencoder=dataclasses.replace(section, decoder=wider))
    with pytest.raises(ValueError, match="they differ in hidden_size 32 and 16"):
        stage1.train(config, tmp_path / "new")
    other = pipeline.stage2(runs, init_from=str(runs / "stage2"))
    other = dataclasses.replace(
        other, denoiser=dataclasses.replace(other.denoiser, backbone_depth=2)
    )
    with pytest.raises(ValueError, match="backbone_depth=2.*backbone_depth=1"):
        stage2.train(other, tmp_path / "new")
    with pytest.raises(ValueError, match=f"must hold a run of stage2, it holds one of {STAGE1}"):
        stage2.train(pipeline.stage2(runs, init_from=str(runs / "stage1")), tmp_path / "new")
    with pytest.raises(FileNotFoundError, match="nowhere.pt"):
        stage2.train(pipeline.stage2(runs, init_from="nowhere.pt"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_run_goes_on_without_what_it_began_with(runs, networks, tmp_path):
    name = written(tmp_path, networks, "stage1", ".pt")
    stage1.train(pipeline.stage1(2, init_from=name), tmp_path / "run")
    (tmp_path / "stage1.pt").unlink()
    stage1.train(pipeline.stage1(3, init_from=name), tmp_path / "run")
