"""Paths from clean latents to noise: noisy = alpha(t) * clean + sigma(t) * noise.

t runs from 0 (clean) to 1 (noise). Stochastic interpolants (arXiv:2303.08797) as SiT
(arXiv:2401.08740) and RAE (bytetriper/RAE, stage2/transport/path.py) use them.
"""

import abc
import dataclasses
import math

import jax.numpy as jnp

from rae_jax.typing import Array, Float, Shaped

Times = Float[Array, "*batch"]
"""One time for all samples (shape []) or one per sample (shape [B])."""


def spread(values: Shaped[Array, "*batch"], latents: Float[Array, "B h w C"]) -> Array:
    """`values` in a shape that broadcasts over `latents`, whether one or one per sample."""
    return values.reshape(values.shape + (1,) * (latents.ndim - 1)) if values.ndim else values


def squared_error(
    prediction: Float[Array, "B h w C"], target: Float[Array, "B h w C"]
) -> Float[Array, " B"]:
    """Mean square of the difference for each sample, float32."""
    difference = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(difference**2, axis=(1, 2, 3))


class Path(abc.ABC):
    """A path, by its two coefficients and their derivatives."""

    @abc.abstractmethod
    def alpha(self, t: Times) -> Times:
        """Share of the clean latents, 1 at t = 0."""

    @abc.abstractmethod
    def sigma(self, t: Times) -> Times:
        """Share of the noise, 0 at t = 0."""

    @abc.abstractmethod
    def alpha_derivative(self, t: Times) -> Times:
        """Derivative of alpha."""

    @abc.abstractmethod
    def sigma_derivative(self, t: Times) -> Times:
        """Derivative of sigma."""

    @abc.abstractmethod
    def alpha_log_derivative(self, t: Times) -> Times:
        """Derivative of log alpha; infinite at t = 1."""

    def noise_drift(self, t: Times) -> tuple[Times, Times]:
        """Factors (a, b) of velocity = a * noisy_latents + b * noise; infinite at t = 1."""
        ratio = self.alpha_log_derivative(t)
        return ratio, self.sigma_derivative(t) - ratio * self.sigma(t)

    def score_drift(self, t: Times) -> tuple[Times, Times]:
        """Factors (a, b) of velocity = a * noisy_latents + b * score; infinite at t = 1."""
        of_latents, of_noise = self.noise_drift(t)
        return of_latents, -self.sigma(t) * of_noise

    def noise_factors(self, t: Times) -> tuple[Times, Times]:
        """Factors (a, b) of noise = a * velocity + b * noisy_latents."""
        determinant = self._determinant(t)
        return self.alpha(t) / determinant, -self.alpha_derivative(t) / determinant

    def clean_factors(self, t: Times) -> tuple[Times, Times]:
        """Factors (a, b) of clean_latents = a * velocity + b * noisy_latents."""
        determinant = self._determinant(t)
        return -self.sigma(t) / determinant, self.sigma_derivative(t) / determinant

    def _determinant(self, t: Times) -> Times:
        """Of the map from (clean, noise) to (noisy, velocity)."""
        return self.alpha(t) * self.sigma_derivative(t) - self.alpha_derivative(t) * self.sigma(t)

    def noisy_latents(
        self, clean_latents: Float[Array, "B h w C"], noise: Float[Array, "B h w C"], t: Times
    ) -> Float[Array, "B h w C"]:
        """The point at time t between clean latents and noise."""
        alpha, sigma = spread(self.alpha(t), noise), spread(self.sigma(t), noise)
        return alpha * clean_latents + sigma * noise

    def velocity(
        self, clean_latents: Float[Array, "B h w C"], noise: Float[Array, "B h w C"], t: Times
    ) -> Float[Array, "B h w C"]:
        """Derivative of `noisy_latents` by t."""
        alpha = spread(self.alpha_derivative(t), noise)
        return alpha * clean_latents + spread(self.sigma_derivative(t), noise) * noise


@dataclasses.dataclass(frozen=True)
class LinearPath(Path):
    """The straight line: alpha = 1 - t, sigma = t (rectified flow, arXiv:2209.03003)."""

    def alpha(self, t: Times) -> Times:
        """See base."""
        return 1 - t

    def sigma(self, t: Times) -> Times:
        """See base."""
        return t

    def alpha_derivative(self, t: Times) -> Times:
        """See base."""
        return jnp.full_like(t, -1)

    def sigma_derivative(self, t: Times) -> Times:
        """See base."""
        return jnp.ones_like(t)

    def alpha_log_derivative(self, t: Times) -> Times:
        """See base."""
        return -1 / (1 - t)

    def velocity(
        self,
        clean_latents: Float[Array, "B h w C"],
        noise: Float[Array, "B h w C"],
        t: Times | None = None,
    ) -> Float[Array, "B h w C"]:
        """Gives noise - clean_latents, the same at every t."""
        return noise - clean_latents


@dataclasses.dataclass(frozen=True)
class GVPPath(Path):
    """Generalised variance preserving: alpha = cos(t pi/2), sigma = sin(t pi/2)."""

    def alpha(self, t: Times) -> Times:
        """See base."""
        return jnp.cos(math.pi / 2 * t)

    def sigma(self, t: Times) -> Times:
        """See base."""
        return jnp.sin(math.pi / 2 * t)

    def alpha_derivative(self, t: Times) -> Times:
        """See base."""
        return -math.pi / 2 * self.sigma(t)

    def sigma_derivative(self, t: Times) -> Times:
        """See base."""
        return math.pi / 2 * self.alpha(t)

    def alpha_log_derivative(self, t: Times) -> Times:
        """See base."""
        return -math.pi / 2 * jnp.tan(math.pi / 2 * t)


@dataclasses.dataclass(frozen=True)
class VPPath(Path):
    """Variance preserving: sigma = exp(-(s²(beta_max - beta_min)/4 + s beta_min/2)), s = 1 - t.

    alpha = sqrt(1 - sigma²). This is the published path: SiT's with the roles of data and noise
    exchanged. Its `noise_drift` kept the factors from before the exchange, which are not the ones
    that the other methods imply. Published models were sampled with them, so they stand here too;
    train with velocity or clean predictions, which do not use them.

    Attributes:
        beta_min: Rate at the noise end.
        beta_max: Rate at the clean end.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _log_sigma(self, t: Times) -> Times:
        s = 1 - t
        return -0.25 * s**2 * (self.beta_max - self.beta_min) - 0.5 * s * self.beta_min

    def _half_rate(self, t: Times) -> Times:
        """Derivative of log sigma."""
        return 0.5 * (self.beta_min + (1 - t) * (self.beta_max - self.beta_min))

    def alpha(self, t: Times) -> Times:
        """See base."""
        # 1 - sigma² without cancellation where sigma is near 1.
        return jnp.sqrt(-jnp.expm1(2 * self._log_sigma(t)))

    def sigma(self, t: Times) -> Times:
        """See base."""
        return jnp.exp(self._log_sigma(t))

    def alpha_derivative(self, t: Times) -> Times:
        """See base."""
        return -self.sigma(t) * self.sigma_derivative(t) / self.alpha(t)

    def sigma_derivative(self, t: Times) -> Times:
        """See base."""
        return self._half_rate(t) * self.sigma(t)

    def alpha_log_derivative(self, t: Times) -> Times:
        """See base."""
        return self.alpha_derivative(t) / self.alpha(t)

    def noise_factors(self, t: Times) -> tuple[Times, Times]:
        """See base; finite at t = 1, where the derivative of alpha is not."""
        return self.alpha(t) ** 2 / self.sigma_derivative(t), self.sigma(t)

    def clean_factors(self, t: Times) -> tuple[Times, Times]:
        """See base; finite at t = 1, where the derivative of alpha is not."""
        alpha = self.alpha(t)
        return -alpha * self.sigma(t) / self.sigma_derivative(t), alpha

    def noise_drift(self, t: Times) -> tuple[Times, Times]:
        """The published factors, see the class."""
        return self._half_rate(t), -self._half_rate(t) / self.sigma(t)


PATHS: dict[str, Path] = {"linear": LinearPath(), "gvp": GVPPath(), "vp": VPPath()}
"""Paths by the names that configurations use."""
