"""Balance of reconstruction and adversarial loss (VQGAN, Esser 2021, arXiv:2012.09841)."""

import jax
import jax.numpy as jnp

from rae_jax.typing import Array, Float

_EPSILON = 1e-6


def adaptive_weight(
    reconstruction_gradient: Float[Array, "..."],
    adversarial_gradient: Float[Array, "..."],
    *,
    largest: float = 1e4,
) -> Float[Array, ""]:
    """Ratio of the gradients' norms, |reconstruction| / (|adversarial| + 1e-6); no gradient.

    Args:
        reconstruction_gradient: Of the reconstruction loss by the kernel of the last layer.
        adversarial_gradient: Of the adversarial loss by the same.
        largest: The ratio is clipped to [0, largest].
    """
    ratio = norm(reconstruction_gradient) / (norm(adversarial_gradient) + _EPSILON)
    return jax.lax.stop_gradient(jnp.clip(ratio, 0, largest))


def norm(gradient: Float[Array, "..."]) -> Float[Array, ""]:
    """Root of the sum of the squares, in float32."""
    return jnp.sqrt(jnp.sum(jnp.square(gradient.astype(jnp.float32))))
