import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.diffusion.losses import FlowMatching
from rae_jax.diffusion.time_sampling import TimeDistribution
from rae_jax.layers.functional import Buffer, freeze, split
from rae_jax.models.autoencoders.latent_normalization import LatentNormalization
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.denoisers.dit_dh import DiTDH, DiTDHConfig
from rae_jax.models.encoders.mae import MAEConfig, MAEEncoder
from rae_jax.training.stage2_step import Stage2Step
from rae_jax.training.state import TrainState
from tests.comparison import nchw_to_nhwc
from tests.golden import recipe
from tests.models.compiled import filled
from tests.training.transcribed import (
    EMA_DECAY,
    SEED,
    assert_drawn_by_step,
    assert_frozen_are_arguments,
    assert_steps,
    assert_trees_close,
    optimizer,
    schedule,
)

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
ENCODER = MAEConfig(
    hidden_size=8, depth=1, num_heads=2, intermediate_size=24, patch_size=8, image_size=16
)
SHAPE, CLASSES, BATCH = (2, 2, 8), 3, 6
DENOISER = DiTDHConfig(
    latent_shape=SHAPE,
    backbone_hidden_size=16,
    backbone_depth=1,
    backbone_num_heads=2,
    head_hidden_size=16,
    head_depth=1,
    head_num_heads=2,
    num_classes=CLASSES,
)
DROPOUT, SHIFT = 0.5, 1.7


def batch_of(name):
    pixels = 255 * recipe.images(name, (BATCH, 3, 16, 16))
    images = jnp.asarray(nchw_to_nhwc(pixels).astype(np.uint8))
    return {"images": images, "labels": jnp.arange(BATCH, dtype=jnp.int32) % CLASSES}


class Tiny:
    """A stage-2 step on the latents of a tiny encoder, compiled once."""

    def __init__(self):
        self.latent_mean = recipe.uniform("mean", SHAPE)
        self.latent_variance = 1 + 0.5 * recipe.uniform("variance", SHAPE)
        autoencoder = AutoencoderRAE(
            filled(lambda: MAEEncoder(ENCODER, dtype=jnp.float32, rngs=nnx.Rngs(0))),
            None,
            encoder_input_size=16,
            image_mean=MEAN,
            image_std=STD,
            normalization=LatentNormalization(self.latent_mean, self.latent_variance),
        )
        self.autoencoder, self.frozen = split(freeze(autoencoder))
        denoiser = filled(lambda: DiTDH(DENOISER, dtype=jnp.float32, rngs=nnx.Rngs(0)))
        self.definition, params, buffers = split(denoiser, nnx.Param, Buffer)
        # Smaller weights than that keep rounding from growing through the modulations.
        params = jax.tree.map(lambda leaf: 0.3 * leaf, params)
        rule = optimizer()
        self.state = TrainState.create(params, buffers, rule, jax.random.key(SEED))
        self.step = Stage2Step(
            self.definition,
            self.autoencoder,
            FlowMatching(times=TimeDistribution("uniform", shift=SHIFT)),
            rule,
            schedule,
            ema_decay=EMA_DECAY,
            label_dropout=DROPOUT,
        )
        self.compiled = jax.jit(self.step)
        self.by_hand = jax.jit(jax.value_and_grad(self.loss_by_hand))

    def loss_by_hand(self, params, batch, key):
        """Times, noise and dropped labels drawn one by one; velocity on the straight path."""
        mean, std = (jnp.float32(values)[None, None, None] for values in (MEAN, STD))
        encoder = self.autoencoder.merge(self.frozen).encoder
        features = encoder((batch["images"].astype(jnp.float32) / 255 - mean) / std)
        clean = (features - self.latent_mean[None]) / np.sqrt(self.latent_variance + 1e-5)[None]
        label_key, loss_key = jax.random.split(key)
        dropped = jnp.stack(
            [jax.random.uniform(jax.random.fold_in(label_key, n)) < DROPOUT for n in range(BATCH)]
        )
        labels = jnp.where(dropped, CLASSES, batch["labels"])
        t, noise = [], []
        for n in range(BATCH):
            time_key, noise_key = jax.random.split(jax.random.fold_in(loss_key, n))
            drawn = 0.999 * jax.random.uniform(time_key)
            t.append(SHIFT * drawn / (1 + (SHIFT - 1) * drawn))
            noise.append(jax.random.normal(noise_key, SHAPE))
        t, noise = jnp.stack(t), jnp.stack(noise)
        at = t[:, None, None, None]
        denoiser = self.definition.merge(params, self.state.buffers)
        velocity = denoiser((1 - at) * clean + at * noise, t, labels).prediction
        return jnp.square(velocity - (noise - clean)).mean()


@pytest.fixture(scope="module")
def tiny():
    return Tiny()


@pytest.mark.long
def test_two_steps_by_hand(tiny):
    assert_steps(tiny, [batch_of(f"stage2 {number}") for number in range(2)])


@pytest.mark.long
def test_noise_depends_on_the_step_and_a_repeated_step_repeats_it(tiny):
    assert_drawn_by_step(tiny, batch_of("stage2"), 1e-3)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_asked_share_of_labels_is_replaced_by_the_null_label(tiny, share):
    step = dataclasses.replace(tiny.step, label_dropout=share)
    seen = []

    class Recorder:
        null_label = CLASSES

        def __call__(self, noisy_latents, t, labels):
            seen.append(np.asarray(labels))
            return type("Output", (), {"prediction": noisy_latents})

    clean = jnp.zeros((2000, 1, 1, 1))
    labels = jnp.arange(2000, dtype=jnp.int32) % CLASSES
    # Undecorated, as the recorder is no denoiser.
    step.loss.__wrapped__(step, Recorder(), clean, labels, jax.random.key(0), jnp.arange(2000))
    kept = seen[0] != CLASSES
    np.testing.assert_array_equal(seen[0][kept], np.asarray(labels)[kept])
    assert abs(kept.mean() - (1 - share)) < 0.04


def test_the_autoencoder_stays_out_of_state_and_program(tiny):
    assert set(tiny.frozen) == {"encoder", "normalization"}
    state, _ = tiny.compiled(tiny.state, tiny.frozen, batch_of("stage2"))
    assert not set(tiny.frozen) & {*state.params, *state.buffers, *state.ema}
    assert_frozen_are_arguments(tiny.step, tiny.state, tiny.frozen, batch_of("stage2"))


@pytest.mark.slow
def test_parts_of_a_batch_give_the_step_of_all_of_it(tiny):
    batch = batch_of("stage2")
    whole, metrics = tiny.compiled(tiny.state, tiny.frozen, batch)
    step = jax.jit(dataclasses.replace(tiny.step, accumulation=BATCH))
    parts, values = step(tiny.state, tiny.frozen, batch)
    assert_trees_close(parts.params, whole.params, 2e-6)
    for name, value in values.items():
        np.testing.assert_allclose(value, metrics[name], rtol=1e-5, err_msg=name)
