"""Whole runs of stage 1 with every loss, on the built-in digits and small random networks."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.checkpointing.experiment import checkpoint_folder
from rae_jax.configuration.schema import LoopConfig, Stage1Config
from rae_jax.training import stage1
from rae_jax.training.stage1_step import Stage1Step
from tests import pipeline
from tests.training.test_runs import losses, record

STEPS = 8
LOOP = LoopConfig(
    log_every="1 steps", checkpoint_every="1 steps", preview_every="8 steps", writers=("jsonl",)
)


def adversarial(steps=STEPS, **changes):
    """LPIPS after 2 steps, the discriminator after 4, the adversarial loss after 6."""
    config = pipeline.smoke("stage1_gan", Stage1Config)
    gan = dataclasses.replace(config.gan, discriminator_start="4 steps", start="6 steps")
    lpips = dataclasses.replace(config.lpips, start="2 steps")
    changes = {"lpips": lpips, "gan": gan, "loop": LOOP, **changes}
    return dataclasses.replace(pipeline.stage1(steps), **changes)


def metrics(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line for line in map(json.loads, lines)}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return stage1.train(adversarial(), tmp_path_factory.mktemp("unbroken"))


@pytest.mark.slow
def test_every_quantity_is_logged_and_terms_come_in_their_phases(unbroken):
    lines = metrics(unbroken)
    assert list(lines) == list(range(1, STEPS + 1))
    starts = {"perceptual": 2, "discriminator_loss": 4, "adversarial": 6, "adaptive_weight": 6}
    for name, start in starts.items():
        on = [step for step, line in lines.items() if line[name] != 0]
        assert on == list(range(start + 1, STEPS + 1)), name
    assert {
        *("loss", "l1", "perceptual", "adversarial", "adaptive_weight"),
        *("discriminator_loss", "logits_real", "logits_fake", "discriminator_accuracy"),
        *("gradient_norm", "last_layer_reconstruction", "last_layer_adversarial"),
        *("discriminator_gradient_norm", "learning_rate", "discriminator_learning_rate"),
        *("images_per_second", "steps_per_second", "teraflops_per_device"),
    } <= set(lines[STEPS])
    assert all(np.isfinite(value) for line in lines.values() for value in line.values())


@pytest.mark.slow
def test_a_run_broken_in_every_phase_equals_an_unbroken_one_bit_for_bit(unbroken, tmp_path):
    for steps in (1, 3, 5, 7, STEPS):
        stage1.train(adversarial(steps), tmp_path)
    assert record(tmp_path, STEPS).fingerprint == record(unbroken, STEPS).fingerprint
    assert losses(tmp_path) == losses(unbroken)


@pytest.fixture
def nan_in_step_2(monkeypatch):
    """Gradients of the third step are not finite."""
    gradients = Stage1Step._decoder_gradients

    def broken(self, state, *arguments):
        found, values = gradients(self, state, *arguments)
        return found, {**values, "loss": jnp.where(state.step == 2, jnp.nan, values["loss"])}

    monkeypatch.setattr(Stage1Step, "_decoder_gradients", broken)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(nan_in_step_2, tmp_path):
    message = r"broke down at step 3.*the batch of step 3 held the records \[\d+, "
    with pytest.raises(FloatingPointError, match=message):
        stage1.train(pipeline.stage1(), tmp_path)
    assert sorted(path.name for path in checkpoint_folder(tmp_path).iterdir()) == ["2"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_skipped_and_counted(nan_in_step_2, tmp_path):
    skipping = dataclasses.replace(pipeline.LOOP, non_finite="skip")
    stage1.train(pipeline.stage1(loop=skipping), tmp_path)
    lines = metrics(tmp_path)
    assert [line["skipped_steps"] for line in lines.values()] == [0, 0, 1, 1]
    assert lines[3]["loss"] == "nan"
    assert np.isfinite(lines[4]["loss"])


@pytest.mark.parametrize(
    "section, changes, error, message",
    [
        (
            "lpips",
            {"path": "{empty}"},
            FileNotFoundError,
            r"vgg16-397923af.pth.*download.pytorch.org/models.*read as it is",
        ),
        (
            "discriminator",
            {"path": "{empty}/dino_vit_small_patch8_224.pth"},
            FileNotFoundError,
            r"dino_vit_small_patch8_224.pth.*hf download nyu-visionx/RAE-collections",
        ),
        ("discriminator", {"key_depths": (0, 4)}, ValueError, "key_depths must be some of 0 to 3"),
    ],
)
def test_what_the_losses_lack_is_told_before_the_folder_is_made(
    section, changes, error, message, tmp_path
):
    config = adversarial()
    changes = {
        name: value.format(empty=tmp_path) if isinstance(value, str) else value
        for name, value in changes.items()
    }
    if section == "lpips":
        config = dataclasses.replace(config, lpips=dataclasses.replace(config.lpips, **changes))
    else:
        judge = dataclasses.replace(config.gan.discriminator, **changes)
        gan = dataclasses.replace(config.gan, discriminator=judge)
        lpips = dataclasses.replace(config.lpips, weight=0.0)
        config = dataclasses.replace(config, gan=gan, lpips=lpips)
    with pytest.raises(error, match=message):
        stage1.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
