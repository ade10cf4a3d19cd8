"""Scores in training: those that the tools give for the same weights."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from rae_jax.configuration.schema import (
    ConfigError,
    DataConfig,
    ExtractorConfig,
    GenerationEvaluationConfig,
    GuidanceConfig,
    ImagesConfig,
    ReconstructionEvaluationConfig,
    Stage1EvaluationConfig,
    Stage2EvaluationConfig,
)
from rae_jax.evaluation import generation, reconstruction
from rae_jax.sampling.samples import make_samples
from rae_jax.sharding.mesh import make_mesh
from rae_jax.sharding.processes import place
from rae_jax.sharding.rules import tree_shardings
from rae_jax.training import evaluation, stage1, stage2
from tests import pipeline
from tests.evaluation.extractors import DIGITS, SIZE, digits, digits_extractor

pytestmark = pytest.mark.slow  # Whole networks are compiled, some of them several times.

COUNT = 20
EXTRACTOR = dataclasses.replace(DIGITS, rows=2)
TEST = DataConfig(source="digits", split="test", image_size=SIZE, crop="none")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    path = tmp_path_factory.mktemp("originals") / "images.npz"
    np.savez(path, arr_0=digits("test", COUNT))
    return ImagesConfig(path=str(path))


@pytest.fixture(autouse=True)
def one_compilation(monkeypatch):
    """Two rows on each of eight devices, and sixteen on one, which differ in the last bits."""
    monkeypatch.setattr(evaluation, "make_extractor", lambda config: digits_extractor(2, 8))
    for module in (generation, reconstruction):
        monkeypatch.setattr(module, "make_extractor", lambda config: digits_extractor(16))


def scores(folder):
    """Step -> scores noted by a run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        line["step"]: {name: value for name, value in line.items() if name != "step"}
        for line in lines
        if any(name.startswith("evaluation/") for name in line)
    }


def test_reconstructions_score_as_those_of_the_finished_run(originals, tmp_path):
    settings = Stage1EvaluationConfig(
        every="2 steps",
        num_images=COUNT,
        batch_size=16,
        weights=("ema", "raw"),
        extractor=EXTRACTOR,
        images=originals,
    )
    run = stage1.train(pipeline.stage1(evaluation=settings), tmp_path / "run")
    noted = scores(run)
    assert list(noted) == [2, 4]
    offline = ReconstructionEvaluationConfig(
        originals=originals, checkpoint=str(run), extractor=DIGITS
    )
    expected = reconstruction.evaluate(offline, tmp_path / "scores").scores
    online = {
        name.removeprefix("evaluation/ema/"): value
        for name, value in noted[4].items()
        if "/ema/" in name
    }
    # The models run on eight devices and on one, which may round a pixel otherwise.
    assert online == pytest.approx(expected, rel=1e-4)
    assert noted[2]["evaluation/ema/psnr"] != noted[4]["evaluation/ema/psnr"]
    assert noted[4]["evaluation/ema/psnr"] != noted[4]["evaluation/raw/psnr"]


def test_scores_are_those_of_any_mesh(originals):
    settings = Stage1EvaluationConfig(
        every="2 steps", num_images=COUNT, batch_size=16, extractor=EXTRACTOR, images=originals
    )
    job = stage1.make_job(pipeline.stage1(evaluation=settings))
    assert job.evaluation is not None
    shapes, found = jax.eval_shape(job.initial_state), []
    for sizes in ((8, 1, 1), (1, 8, 1), (2, 4, 1), (2, 2, 2)):
        mesh = make_mesh(*sizes)
        shardings = tree_shardings(shapes, mesh, min_size=1)
        state = jax.jit(job.initial_state, out_shardings=shardings)()
        frozen = place(job.frozen, tree_shardings(job.frozen, mesh, min_size=1))
        with jax.set_mesh(mesh):
            found.append(job.evaluation(state, frozen, mesh))
    assert set(found[0]) == {"ema/psnr", "ema/ssim", "ema/rfid"}
    for other in found[1:]:
        # Rounded pixels may differ by a level.
        assert other == pytest.approx(found[0], rel=1e-4)


GUIDED = GuidanceConfig(method="classifier_free", scale=2.0)


@pytest.mark.parametrize("guidance", [GuidanceConfig(), GUIDED], ids=["unguided", "guided"])
def test_samples_score_as_those_of_the_finished_run(runs, originals, tmp_path, guidance):
    config = pipeline.stage2(runs)
    sampler = pipeline.sampling(runs).sampler
    settings = Stage2EvaluationConfig(
        every="4 steps",
        num_images=COUNT,
        batch_size=8,
        extractor=EXTRACTOR,
        reference=originals,
        metrics=("fid", "precision_recall"),
        sampler=sampler,
        guidance=guidance,
    )
    run = stage2.train(dataclasses.replace(config, evaluation=settings), tmp_path / "run")
    (noted,) = scores(run).values()
    sampling = pipeline.sampling(
        runs,
        checkpoint=str(run),
        num_images=COUNT,
        labels="equal",
        seed=0,
        sampler=sampler,
        guidance=guidance,
    )
    offline = GenerationEvaluationConfig(
        samples=ImagesConfig(path=str(make_samples(sampling, tmp_path / "samples"))),
        reference=originals,
        extractor=DIGITS,
        metrics=settings.metrics,
        pictured=0,
    )
    expected = generation.evaluate(offline, tmp_path / "scores").scores
    online = {name.removeprefix("evaluation/ema/"): value for name, value in noted.items()}
    assert online == pytest.approx(expected, rel=1e-4)
    assert online["frechet_distance"] > 0


def test_fixed_images_are_spread_over_the_set():
    settings = Stage1EvaluationConfig(
        every="1 steps", num_images=10, images=ImagesConfig(data=TEST), metrics=("psnr",)
    )
    made = evaluation.ReconstructionEvaluation(settings, SIZE, lambda *arguments: arguments[-1])
    images = made._read(np.arange(10), (slice(None),))
    np.testing.assert_array_equal(images[[0, 9]], digits("test", 360)[[0, 359]])


def test_what_cannot_be_evaluated_is_told_before_training(runs, tmp_path):
    wrong = Stage1EvaluationConfig(
        every="1 steps", images=ImagesConfig(data=dataclasses.replace(TEST, image_size=32))
    )
    with pytest.raises(ValueError, match="must have the size of the training images, 48 x 48, got"):
        stage1.train(pipeline.stage1(evaluation=wrong), tmp_path / "run")
    config = pipeline.stage2(runs)
    bare = dataclasses.replace(config.autoencoder, checkpoint="")
    settings = Stage2EvaluationConfig(every="1 steps", extractor=EXTRACTOR)
    with pytest.raises(ValueError, match="evaluation scores images, but the autoencoder has no"):
        stage2.train(
            dataclasses.replace(config, autoencoder=bare, evaluation=settings), tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_settings_that_make_no_sense_are_errors():
    with pytest.raises(ConfigError, match="every must be a number and a unit"):
        Stage1EvaluationConfig(every="sometimes")
    with pytest.raises(ConfigError, match=r"weights must be some of \('ema', 'raw'\)"):
        Stage2EvaluationConfig(weights=("best",))
    with pytest.raises(ConfigError, match="kid_subset_size must be at least 2"):
        Stage2EvaluationConfig(kid_subset_size=1)
    with pytest.raises(ConfigError, match="metrics must be some of"):
        Stage2EvaluationConfig(metrics=("psnr",), extractor=ExtractorConfig())


@pytest.mark.parametrize(
    ("guidance", "label_dropout"),
    [(GUIDED, 0.0), (GuidanceConfig(method="autoguidance", checkpoint="run"), 0.1)],
)
def test_guidance_that_the_run_has_not_is_told_at_once(guidance, label_dropout):
    settings = Stage2EvaluationConfig(every="1 steps", guidance=guidance)
    with pytest.raises(ConfigError, match="evaluation.guidance.method must be 'none' or, with a"):
        pipeline.stage2(pathlib.Path("runs"), label_dropout=label_dropout, evaluation=settings)
