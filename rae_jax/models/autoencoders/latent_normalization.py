"""Features to latents of zero mean and unit variance, and back."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.functional import Buffer
from rae_jax.typing import Array, Float


class LatentNormalization(nnx.Module):
    """(features - mean) / sqrt(variance + epsilon), statistics per grid cell and channel.

    The rule of the RAE release (arXiv:2510.11690). Files that divide by (std + e) and multiply by
    a scaling factor s are the same with variance ((std + e) / s)² and epsilon 0.
    """

    def __init__(
        self,
        mean: Float[np.ndarray | Array, "h w C"],
        variance: Float[np.ndarray | Array, "_ _ _"],
        *,
        epsilon: float = 1e-5,
    ):
        """Keeps the statistics.

        Args:
            mean: Means of the features.
            variance: Population variances of the features.
            epsilon: Added to the variance.

        Raises:
            ValueError: If the shapes differ.
        """
        if mean.shape != variance.shape:
            raise ValueError(
                f"latent mean and variance must have one shape, got {mean.shape} and "
                f"{variance.shape}"
            )
        self.mean = Buffer(jnp.asarray(mean, jnp.float32))
        self.variance = Buffer(jnp.asarray(variance, jnp.float32))
        self.epsilon = epsilon

    @property
    def shape(self) -> tuple[int, ...]:
        """(h, w, C) of the latents that the statistics belong to."""
        return self.mean.shape

    def normalize(self, features: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """Features to latents, float32."""
        self._check(features)
        centred = features.astype(jnp.float32) - self.mean[...][None]
        return centred / self._scale()

    def denormalize(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """Latents to features, float32: the inverse of `normalize`."""
        self._check(latents)
        return latents.astype(jnp.float32) * self._scale() + self.mean[...][None]

    def _scale(self) -> Float[Array, "1 h w C"]:
        return jnp.sqrt(self.variance[...] + self.epsilon)[None]

    def _check(self, values: jax.Array) -> None:
        if values.shape[1:] != self.shape:
            raise ValueError(
                f"the latent statistics are for {self.shape} (h, w, C), got {values.shape[1:]}; "
                "use images of the size that the statistics were computed with"
            )
