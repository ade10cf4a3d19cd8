"""Everything a training run carries from one step to the next."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rae_jax.training import ema as moving_average
from rae_jax.typing import Array, Int, Key, PyTree


@struct.dataclass
class TrainState:
    """State of one model under training; a tree, checkpointed whole.

    Attributes:
        step: int32, number of finished steps.
        skipped: int32, how many of them changed nothing, because a loss or gradient was not finite.
        params: Trained parameters, nested dictionaries of arrays.
        buffers: Constants that belong to the model, never trained.
        ema: Moving average of `params`, float32.
        optimizer_state: What optax keeps.
        key: Base key of the run; the random numbers of a step are drawn from it and `step`.
    """

    # Any, not array types: the same class also holds trees of shapes or of shardings.
    step: Any
    skipped: Any
    params: Any
    buffers: Any
    ema: Any
    optimizer_state: Any
    key: Any

    @classmethod
    def create(
        cls,
        params: PyTree,
        buffers: PyTree,
        optimizer: optax.GradientTransformation,
        key: Key[Array, ""],
    ) -> "TrainState":
        """State before the first step; works inside `jax.jit`, to be made in its shardings.

        Everything is copied: the loop uses up the state's arrays, which may not be the caller's,
        nor may one stand in two places.
        """
        return cls(
            step=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
            params=jax.tree.map(jnp.copy, params),
            buffers=jax.tree.map(jnp.copy, buffers),
            ema=jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), params),
            optimizer_state=optimizer.init(params),
            key=jax.random.clone(key),
        )

    @property
    def updates(self) -> Int[Array, ""]:
        """Optimiser steps taken, which is what learning rates go by."""
        return self.step - self.skipped

    def updated(
        self, gradients: PyTree, optimizer: optax.GradientTransformation, ema_decay: float
    ) -> "TrainState":
        """State after one optimiser step and its step of the moving average."""
        updates, optimizer_state = optimizer.update(gradients, self.optimizer_state, self.params)
        params = optax.apply_updates(self.params, updates)
        return self.replace(  # pyright: ignore[reportAttributeAccessIssue]
            step=self.step + 1,
            params=params,
            ema=moving_average.update(self.ema, params, ema_decay),
            optimizer_state=optimizer_state,
        )


@struct.dataclass
class DiscriminatorState:
    """State of a discriminator under training.

    Attributes:
        params: Trained parameters.
        vectors: Of the power iterations of its spectral norms.
        optimizer_state: What optax keeps.
        updates: int32, optimiser steps taken.
    """

    params: Any
    vectors: Any
    optimizer_state: Any
    updates: Any

    @classmethod
    def create(
        cls, params: PyTree, vectors: PyTree, optimizer: optax.GradientTransformation
    ) -> "DiscriminatorState":
        """State before the first step, see `TrainState.create`."""
        return cls(
            params=jax.tree.map(jnp.copy, params),
            vectors=jax.tree.map(jnp.copy, vectors),
            optimizer_state=optimizer.init(params),
            updates=jnp.zeros((), jnp.int32),
        )

    def updated(
        self, gradients: PyTree, vectors: PyTree, optimizer: optax.GradientTransformation
    ) -> "DiscriminatorState":
        """State after one optimiser step."""
        updates, optimizer_state = optimizer.update(gradients, self.optimizer_state, self.params)
        return self.replace(  # pyright: ignore[reportAttributeAccessIssue]
            params=optax.apply_updates(self.params, updates),
            vectors=vectors,
            optimizer_state=optimizer_state,
            updates=self.updates + 1,
        )


@struct.dataclass
class AdversarialState(TrainState):
    """State of a model and its adversary.

    Attributes:
        discriminator: The adversary's part, a `DiscriminatorState`.
    """

    discriminator: Any

    @classmethod
    def of(cls, state: TrainState, discriminator: DiscriminatorState) -> "AdversarialState":
        """`state` with an adversary."""
        fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        return cls(**fields, discriminator=discriminator)
