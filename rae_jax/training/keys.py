"""Where the random numbers of a run begin."""

import jax
import jax.numpy as jnp

INITIALISATION, TRAINING, PREVIEWS, DISCRIMINATOR = range(4)
"""Purposes of `addressed_key`."""


def addressed_key(seed: int, purpose: int) -> jax.Array:
    """Base key of one purpose of a run; purposes of one seed are independent."""
    return jax.random.fold_in(jax.random.key(jnp.uint32(seed)), purpose)
