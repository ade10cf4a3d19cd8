"""Every way to sample, from a run's folder to images."""

import dataclasses

import jax
import numpy as np
import pytest

from rae_jax.configuration.schema import GuidanceConfig, LightningDiTConfig, SamplerConfig
from rae_jax.sampling.restore import noise_key, restore
from rae_jax.training import stage2 as second_stage
from tests import pipeline

WAYS = {
    "dopri5": SamplerConfig(method="dopri5", rtol=0.05, atol=0.05),
    "stochastic": SamplerConfig(mode="sde", num_steps=4),
    "stochastic heun": SamplerConfig(mode="sde", method="heun", num_steps=4, last_step="tweedie"),
    "to zero": SamplerConfig(method="rk4", num_steps=3, final_step="zero"),
    "shared": SamplerConfig(num_steps=5, backbone_every=2),
}
TRUNK = LightningDiTConfig(hidden_size=16, depth=2, num_heads=2, num_classes=10)


@pytest.fixture(scope="module")
def trunk(runs, tmp_path_factory):
    """A stage-2 run with a LightningDiT."""
    folder = tmp_path_factory.mktemp("trunk") / "stage2"
    config = pipeline.stage2(runs, denoiser=TRUNK)
    return second_stage.train(dataclasses.replace(config, unroll=2, remat="dots"), folder)


def images(checkpoint, sampler, guidance=GuidanceConfig()):  # noqa: B008
    config = pipeline.sampling(checkpoint.parent, checkpoint=str(checkpoint))
    models = restore(dataclasses.replace(config, sampler=sampler, guidance=guidance))
    index = np.arange(4, dtype=np.int32)
    labels = np.array([3, 1, 4, 1], np.int32)
    inputs = models.weights, models.frozen, noise_key(0), index, labels
    return np.asarray(jax.jit(models.generator)(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("guided", [False, True])
def test_every_way_makes_images(runs, way, guided):
    guidance = GuidanceConfig()
    if guided:
        checkpoint = str(runs / "stage2")
        guidance = GuidanceConfig(
            method="autoguidance", scale=1.5, checkpoint=checkpoint, weights="raw"
        )
    made = images(runs / "stage2", WAYS[way], guidance)
    assert made.shape == (4, 48, 48, 3) and made.dtype == np.uint8
    assert len({image.tobytes() for image in made}) == 4


@pytest.mark.slow
def test_a_lightning_dit_is_trained_and_sampled_and_guides(runs, trunk):
    free = GuidanceConfig(method="classifier_free", scale=2.0)
    sampler = SamplerConfig(num_steps=4)
    assert len({image.tobytes() for image in images(trunk, sampler, free)}) == 4
    guide = GuidanceConfig(method="autoguidance", scale=1.5, checkpoint=str(trunk))
    assert len({image.tobytes() for image in images(runs / "stage2", sampler, guide)}) == 4
    with pytest.raises(ValueError, match="is a lightning_dit, which has no backbone"):
        images(trunk, SamplerConfig(backbone_every=2))
    with pytest.raises(ValueError, match="must be a dit_dh for steps to share"):
        images(runs / "stage2", SamplerConfig(backbone_every=2), guide)
