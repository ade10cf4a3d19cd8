"""Exponential moving average of parameters, which is what gets evaluated and published."""

import jax
import jax.numpy as jnp

from rae_jax.typing import PyTree


def update(ema: PyTree, params: PyTree, decay: float) -> PyTree:
    """`decay * ema + (1 - decay) * params`, leaf by leaf.

    Kept in float32 whatever the parameters are: in bfloat16 a step of 1e-3 would vanish.
    """
    return jax.tree.map(
        lambda average, value: decay * average + (1 - decay) * value.astype(jnp.float32),
        ema,
        params,
    )
