"""Reconstruction losses."""

import jax.numpy as jnp

from rae_jax.typing import Array, Float


def l1_loss(
    reconstructions: Float[Array, "B H W C"], images: Float[Array, "B H W C"]
) -> Float[Array, ""]:
    """Mean absolute difference over everything, float32."""
    difference = reconstructions.astype(jnp.float32) - images.astype(jnp.float32)
    return jnp.mean(jnp.abs(difference))


def feature_loss(
    reconstructions: Float[Array, "B h w C"], images: Float[Array, "B h w C"]
) -> Float[Array, ""]:
    """Mean squared difference of the encoder's features of reconstructions and images, float32.

    What diffusers' training script calls the encoder loss (`use_encoder_loss`): features are those
    before the latent statistics, without noise.
    """
    difference = reconstructions.astype(jnp.float32) - images.astype(jnp.float32)
    return jnp.mean(jnp.square(difference))
