"""Reconstruction losses."""

import jax.numpy as jnp

from rae_jax.typing import Array, Float


def l1_loss(
    reconstructions: Float[Array, "B H W C"], images: Float[Array, "B H W C"]
) -> Float[Array, ""]:
    """Mean absolute difference over everything, float32."""
    difference = reconstructions.astype(jnp.float32) - images.astype(jnp.float32)
    return jnp.mean(jnp.abs(difference))
