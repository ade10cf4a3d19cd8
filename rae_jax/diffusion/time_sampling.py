"""Which times training looks at, and the shift that latents of many dimensions need."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from rae_jax.typing import Array, Float, Key

LAST_TRAINED = 1 - 1e-3
"""End of the training times for velocity on the linear path (SiT, arXiv:2401.08740)."""


def time_shift(latent_shape: tuple[int, int, int], base: int = 4096) -> float:
    """sqrt(h * w * C / base): latents of more dimensions need more noise to be as hidden.

    From arXiv:2403.03206, section 5.3.2, applied to all dimensions by RAE (arXiv:2510.11690,
    section 4). A shift below one is legal.
    """
    return math.sqrt(math.prod(latent_shape) / base)


def shift_time(t: Float[Array, "..."], shift: float) -> Float[Array, "..."]:
    """shift * t / (1 + (shift - 1) * t); keeps 0 and 1 where they are."""
    return shift * t / (1 + (shift - 1) * t)


def logit_normal_quantile(
    probability: Float[Array, "..."], mean: float, std: float, low: float, high: float
) -> Float[Array, "..."]:
    """Inverse distribution function of sigmoid(N(mean, std²)) truncated to [low, high]."""

    def cumulative(value: float) -> Float[Array, ""]:
        if value <= 0 or value >= 1:
            return jnp.float32(value >= 1)
        logit = math.log(value / (1 - value))
        return jax.scipy.stats.norm.cdf(jnp.float32((logit - mean) / std))

    first, last = cumulative(low), cumulative(high)
    normal = jax.scipy.special.ndtri(first + (last - first) * probability)
    return jnp.clip(jax.nn.sigmoid(mean + std * normal), low, high)


@dataclasses.dataclass(frozen=True)
class TimeDistribution:
    """Distribution of training times.

    Attributes:
        kind: "uniform", or "logit_normal": the logit of t is normal.
        shift: Applied last, see `time_shift`.
        logit_mean: Of the logit.
        logit_std: Of the logit.
        low: Smallest time before the shift.
        high: Largest time before the shift.
    """

    kind: Literal["uniform", "logit_normal"]
    shift: float
    logit_mean: float = 0.0
    logit_std: float = 1.0
    low: float = 0.0
    high: float = LAST_TRAINED

    def quantile(self, probability: Float[Array, " B"]) -> Float[Array, " B"]:
        """Times at the given probabilities."""
        if self.kind == "uniform":
            t = self.low + (self.high - self.low) * probability
        else:
            t = logit_normal_quantile(
                probability, self.logit_mean, self.logit_std, self.low, self.high
            )
        return shift_time(t, self.shift)

    def sample(self, key: Key[Array, ""], count: int) -> Float[Array, " B"]:
        """`count` independent times."""
        return self.quantile(jax.random.uniform(key, (count,)))
