"""Features to latents of zero mean and unit variance, and back."""

import abc

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.functional import Buffer
from rae_jax.typing import Array, Float


class Normalization(nnx.Module):
    """A rule that makes latents of features, and its inverse."""

    @abc.abstractmethod
    def require_shape(self, shape: tuple[int, int, int]) -> None:
        """Raises ValueError unless the statistics are for latents of `shape` (h, w, C)."""

    @abc.abstractmethod
    def normalize(self, features: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """Features to latents, float32."""

    @abc.abstractmethod
    def denormalize(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """Latents to features, float32: the inverse of `normalize`."""


class LatentNormalization(Normalization):
    """(features - mean) / sqrt(variance + epsilon), statistics per grid cell and channel.

    The rule of the RAE release (arXiv:2510.11690).
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

    def require_shape(self, shape: tuple[int, int, int]) -> None:
        """See base."""
        if self.shape != shape:
            raise ValueError(
                f"the latent statistics must have the latents' shape {shape} (h, w, C), got "
                f"{self.shape}"
            )

    def normalize(self, features: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """See base."""
        self._check(features)
        centred = features.astype(jnp.float32) - self.mean[...][None]
        return centred / self._scale()

    def denormalize(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """See base."""
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


class ScaledNormalization(Normalization):
    """(features - mean) / (std + 1e-5) * scaling_factor, the rule of diffusers' AutoencoderRAE.

    Each axis of the statistics may have length one, which holds for all cells or channels.
    """

    epsilon = 1e-5

    def __init__(
        self,
        mean: Float[np.ndarray | Array, "_ _ _"],
        std: Float[np.ndarray | Array, "_ _ _"],
        *,
        scaling_factor: float = 1.0,
    ):
        """Keeps the statistics.

        Args:
            mean: Means of the features, [h or 1, w or 1, C or 1].
            std: Deviations of the features, likewise.
            scaling_factor: What latents are multiplied by.

        Raises:
            ValueError: If the factor is zero.
        """
        if not scaling_factor:
            raise ValueError("scaling_factor must not be 0")
        self.mean = Buffer(jnp.asarray(mean, jnp.float32))
        self.std = Buffer(jnp.asarray(std, jnp.float32))
        self.scaling_factor = scaling_factor

    def require_shape(self, shape: tuple[int, int, int]) -> None:
        """See base."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if any(
                size not in (1, wanted) for size, wanted in zip(values.shape, shape, strict=True)
            ):
                raise ValueError(
                    f"the latent {name} must fit the latents' shape {shape} (h, w, C), got "
                    f"{values.shape}"
                )

    def normalize(self, features: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """See base."""
        centred = features.astype(jnp.float32) - self.mean[...][None]
        return centred / (self.std[...] + self.epsilon)[None] * self.scaling_factor

    def denormalize(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """See base."""
        scaled = latents.astype(jnp.float32) / self.scaling_factor
        return scaled * (self.std[...] + self.epsilon)[None] + self.mean[...][None]
