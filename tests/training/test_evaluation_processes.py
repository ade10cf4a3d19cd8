"""Scores of training over two processes are those that one process gives of the same weights."""

import dataclasses
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from rae_jax.configuration.schema import (
    GenerationEvaluationConfig,
    GuidanceConfig,
    ImagesConfig,
    ReconstructionEvaluationConfig,
    Stage1EvaluationConfig,
    Stage2EvaluationConfig,
)
from rae_jax.evaluation import generation, reconstruction
from rae_jax.sampling.samples import make_samples
from tests import pipeline
from tests.evaluation.extractors import DIGITS, digits, digits_extractor
from tests.processes import free_address

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(900)]

COUNT = 21
EVERY = {
    "every": "2 steps",
    "num_images": COUNT,
    "batch_size": 8,
    "extractor": DIGITS,
}
GUIDANCE = GuidanceConfig(method="classifier_free", scale=1.5)

SCRIPT = textwrap.dedent(
    """
    import dataclasses
    import pathlib
    import sys
    import jax

    rank, address, folder = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, num_processes=2, process_id=rank)

    from rae_jax.training import stage1, stage2
    from tests import pipeline
    from tests.training import test_evaluation_processes as test

    first, second = test.evaluations(folder)
    stage1.train(pipeline.stage1(2, evaluation=first), folder / "first")
    autoencoder = dataclasses.replace(
        pipeline.stage1().autoencoder, checkpoint=str(folder / "first")
    )
    settings = pipeline.stage2(folder, 2, autoencoder=autoencoder, evaluation=second)
    stage2.train(settings, folder / "second")
    """
)


def evaluations(folder):
    """What both stages are to score."""
    sampler = dataclasses.replace(Stage2EvaluationConfig().sampler, num_steps=3)
    images = ImagesConfig(path=str(folder / "images.npz"))
    metrics = ("fid", "precision_recall")
    return (
        Stage1EvaluationConfig(images=images, **EVERY),
        Stage2EvaluationConfig(
            reference=images, metrics=metrics, sampler=sampler, guidance=GUIDANCE, **EVERY
        ),
    )


def assert_noted(folder, result):
    """The scores at the end of a run are those of the finished run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (line,) = (line for line in lines if any(name.startswith("evaluation/") for name in line))
    noted = {name: value for name, value in line.items() if name.startswith("evaluation/")}
    expected = {f"evaluation/ema/{name}": value for name, value in result.scores.items()}
    assert len(expected) == 3
    # The models run on four devices and on eight, which may round a pixel otherwise.
    assert noted == pytest.approx(expected, rel=1e-4)


def test_two_processes_score_as_one(tmp_path, monkeypatch):
    np.savez(tmp_path / "images.npz", arr_0=digits("test", COUNT))
    address = free_address()
    command = [sys.executable, "-c", SCRIPT]
    processes = [
        subprocess.Popen(
            [*command, str(rank), address, str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)

    for module in (generation, reconstruction):
        monkeypatch.setattr(module, "make_extractor", lambda config: digits_extractor(16))
    first, second = evaluations(tmp_path)
    offline = ReconstructionEvaluationConfig(
        originals=first.images, checkpoint=str(tmp_path / "first"), extractor=DIGITS
    )
    assert_noted(tmp_path / "first", reconstruction.evaluate(offline, tmp_path / "scores_1"))
    sampling = pipeline.sampling(
        tmp_path,
        checkpoint=str(tmp_path / "second"),
        num_images=COUNT,
        labels="equal",
        seed=0,
        sampler=second.sampler,
        guidance=GUIDANCE,
    )
    offline = GenerationEvaluationConfig(
        samples=ImagesConfig(path=str(make_samples(sampling, tmp_path / "samples"))),
        reference=second.reference,
        extractor=DIGITS,
        metrics=second.metrics,
        pictured=0,
    )
    assert_noted(tmp_path / "second", generation.evaluate(offline, tmp_path / "scores_2"))
