"""A tiny regression whose batches and noise depend on the step alone."""

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.training.optimizers import adamw
from rae_jax.training.state import TrainState

OPTIMIZER = adamw(1e-2, beta_1=0.9, beta_2=0.95, weight_decay=0.0, clip_norm=1.0)


def create(key):
    """State of a linear map from 8 to 4 numbers."""
    params = {"up": {"kernel": jax.random.normal(key, (8, 4))}}
    return TrainState.create(params, {}, OPTIMIZER, key)


def batches(start_step):
    """Endless batches from `start_step` on."""
    step = start_step
    while True:
        generator = np.random.default_rng(step)
        yield {"x": generator.normal(size=(8, 8)).astype(np.float32)}
        step += 1


def train_step(state, batch):
    """One step with noise drawn from the step's own key."""
    key = jax.random.fold_in(state.key, state.step)
    noise = jax.random.normal(key, batch["x"].shape)

    def loss(params):
        return jnp.mean(((batch["x"] + 0.1 * noise) @ params["up"]["kernel"] - 1) ** 2)

    value, gradients = jax.value_and_grad(loss)(state.params)
    return state.updated(gradients, OPTIMIZER, 0.9), {"loss": value}
