"""Everything a training run carries from one step to the next."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rae_jax.training import ema as moving_average
from rae_jax.typing import Array, Key, PyTree


@struct.dataclass
class TrainState:
    """State of one model under training; a tree, checkpointed whole.

    Attributes:
        step: int32, number of finished steps.
        params: Trained parameters, nested dictionaries of arrays.
        buffers: Constants that belong to the model, never trained.
        ema: Moving average of `params`, float32.
        optimizer_state: What optax keeps.
        key: Base key of the run; the random numbers of a step are drawn from it and `step`.
    """

    # Any, not array types: the same class also holds trees of shapes or of shardings.
    step: Any
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
            params=jax.tree.map(jnp.copy, params),
            buffers=jax.tree.map(jnp.copy, buffers),
            ema=jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), params),
            optimizer_state=optimizer.init(params),
            key=jax.random.clone(key),
        )

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
