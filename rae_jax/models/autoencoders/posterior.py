"""The distribution that a variational encoder gives (Kingma & Welling 2014, arXiv:1312.6114)."""

import jax
import jax.numpy as jnp
from flax import struct

from rae_jax.typing import Array, Float, Key

_LEAST, _MOST = -30.0, 20.0


@struct.dataclass
class DiagonalGaussian:
    """Independent normal distributions, float32.

    Attributes:
        mean: Of each number.
        log_variance: Of each number, clipped to [-30, 20].
    """

    mean: Float[Array, "B h w C"]
    log_variance: Float[Array, "B h w C"]

    @classmethod
    def of_moments(cls, moments: Float[Array, "B h w D"]) -> "DiagonalGaussian":
        """Of what an encoder gives: means in the first half of the channels, then logarithms."""
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return cls(mean, jnp.clip(log_variance, _LEAST, _MOST))

    @property
    def std(self) -> Float[Array, "B h w C"]:
        """Standard deviations."""
        return jnp.exp(0.5 * self.log_variance)

    def mode(self) -> Float[Array, "B h w C"]:
        """The likeliest values: the means."""
        return self.mean

    def sample(self, key: Key[Array, ""]) -> Float[Array, "B h w C"]:
        """Random values; those of image n depend on the key and on n alone."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(self.mean)))
        noise = jax.vmap(lambda key: jax.random.normal(key, self.mean.shape[1:]))(keys)
        return self.mean + self.std * noise

    def kl(self) -> Float[Array, " B"]:
        """Kullback-Leibler divergence from the standard normal distribution, per image."""
        terms = jnp.square(self.mean) + jnp.exp(self.log_variance) - 1 - self.log_variance
        return 0.5 * terms.sum(axis=(1, 2, 3))
