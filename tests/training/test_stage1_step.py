import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import Buffer, Frozen, split
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.decoders.vit_decoder import DecoderConfig, ViTDecoder
from rae_jax.models.encoders.mae import MAEConfig, MAEEncoder
from rae_jax.reconstruction.objective import DecoderLoss
from rae_jax.training.stage1_step import Stage1Step
from rae_jax.training.state import TrainState
from tests.comparison import nchw_to_nhwc
from tests.golden import recipe
from tests.models.compiled import filled
from tests.training.transcribed import (
    EMA_DECAY,
    RULE,
    SEED,
    assert_drawn_by_step,
    assert_frozen_are_arguments,
    assert_steps,
    optimizer,
    schedule,
)

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
ENCODER = MAEConfig(
    hidden_size=16, depth=1, num_heads=2, intermediate_size=24, patch_size=8, image_size=16
)
DECODER = DecoderConfig(
    hidden_size=16,
    depth=1,
    num_heads=2,
    intermediate_size=24,
    latent_channels=16,
    grid=(2, 2),
    patch_size=8,
)
TAU, WEIGHT = 0.6, 2.0


def image_batch(name):
    pixels = 255 * recipe.images(name, (3, 3, 16, 16))
    return {"images": jnp.asarray(nchw_to_nhwc(pixels).astype(np.uint8))}


class Tiny:
    """A stage-1 step over a tiny autoencoder, compiled once."""

    def __init__(self):
        autoencoder = AutoencoderRAE(
            filled(lambda: MAEEncoder(ENCODER, dtype=jnp.float32, rngs=nnx.Rngs(0))),
            filled(lambda: ViTDecoder(DECODER, dtype=jnp.float32, rngs=nnx.Rngs(0))),
            encoder_input_size=16,
            image_mean=MEAN,
            image_std=STD,
        )
        self.definition, params, buffers, self.frozen = split(
            autoencoder, nnx.Param, Buffer, Frozen
        )
        rule = optimizer()
        self.state = TrainState.create(params, buffers, rule, jax.random.key(SEED))
        self.step = Stage1Step(
            self.definition,
            rule,
            schedule,
            ema_decay=EMA_DECAY,
            noise_tau=TAU,
            loss=DecoderLoss(l1=WEIGHT),
        )
        self.compiled = jax.jit(self.step)
        self.by_hand = jax.jit(jax.value_and_grad(self.loss_by_hand))

    def loss_by_hand(self, params, batch, key):
        """The noise drawn sample by sample."""
        model = self.definition.merge(params, self.state.buffers, self.frozen)
        mean, std = (jnp.float32(values)[None, None, None] for values in (MEAN, STD))
        images = batch["images"].astype(jnp.float32) / 255
        features = model.encoder((images - mean) / std)
        noise = []
        for n in range(len(images)):
            sigma_key, noise_key = jax.random.split(jax.random.fold_in(key, n))
            drawn = jax.random.normal(noise_key, features.shape[1:])
            noise.append(TAU * jax.random.uniform(sigma_key) * drawn)
        decoded = model.decoder(features + jnp.stack(noise)) * std + mean
        return WEIGHT * jnp.abs(decoded - images).mean()


@pytest.fixture(scope="module")
def tiny():
    return Tiny()


def test_two_steps_by_hand(tiny):
    batches = [image_batch(f"stage1 {number}") for number in range(2)]
    for value, norm, metrics in assert_steps(tiny, batches):
        np.testing.assert_allclose(metrics["l1"], value / WEIGHT, rtol=1e-6)
        assert norm > RULE["clip_norm"]


def test_noise_depends_on_the_step_and_a_repeated_step_repeats_it(tiny):
    assert_drawn_by_step(tiny, image_batch("stage1"), 1e-4)


def test_the_encoder_stays_out_of_state_and_program(tiny):
    assert set(tiny.frozen) == {"encoder"}
    state, _ = tiny.compiled(tiny.state, tiny.frozen, image_batch("stage1"))
    for tree in (state.params, state.buffers, state.ema):
        assert set(tree) == {"decoder"}
    assert "encoder" not in jax.tree_util.keystr(
        sum((path for path, _ in jax.tree_util.tree_leaves_with_path(state)), ())
    )
    assert_frozen_are_arguments(tiny.step, tiny.state, tiny.frozen, image_batch("stage1"))
