"""Paths from clean latents (t = 0) to noise (t = 1)."""

import jax.numpy as jnp

from rae_jax.typing import Array, Float


def _spread(t: Float[Array, " B"], like: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    return t.reshape(t.shape + (1,) * (like.ndim - 1))


class LinearPath:
    """noisy = (1 - t) * clean + t * noise (rectified flow, arXiv:2209.03003)."""

    def noisy_latents(
        self, clean: Float[Array, "B ..."], noise: Float[Array, "B ..."], t: Float[Array, " B"]
    ) -> Float[Array, "B ..."]:
        """The point of the path at `t`."""
        weight = _spread(t, clean)
        return (1 - weight) * clean + weight * noise

    def velocity(
        self, clean: Float[Array, "B ..."], noise: Float[Array, "B ..."]
    ) -> Float[Array, "B ..."]:
        """d noisy / dt, the same at every t."""
        return noise - clean


def squared_error(
    prediction: Float[Array, "B ..."], target: Float[Array, "B ..."]
) -> Float[Array, " B"]:
    """Mean square of the difference for each sample, float32."""
    difference = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.square(difference).mean(axis=tuple(range(1, difference.ndim)))
