"""Times at which a denoiser is trained."""

import dataclasses
import math
import statistics

import jax
import jax.numpy as jnp

from rae_jax.diffusion.paths import Path, VPPath
from rae_jax.diffusion.predictions import require_prediction
from rae_jax.typing import Array, Float

TIME_SHIFT_BASE = 4096
"""Size of the latents for which times are not shifted: 32 x 32 x 4."""

_MARGIN, _VP_MARGIN = 1e-3, 1e-5


def time_shift(latent_shape: tuple[int, int, int], base: int | float = TIME_SHIFT_BASE) -> float:
    """How much later than at the base size noise must be for the same destruction.

    sqrt(h * w * C / base) (RAE, arXiv:2510.11690, after SD3, arXiv:2403.03206).
    """
    return math.sqrt(math.prod(latent_shape) / base)


def shift_time(t: Float[Array, "*batch"], shift: float) -> Float[Array, "*batch"]:
    """Moves times towards noise for a shift above 1: s t / (1 + (s - 1) t); keeps 0 and 1.

    Raises:
        ValueError: The shift is not positive.
    """
    if shift <= 0:
        raise ValueError(f"time shift must be positive, got {shift}")
    return shift * t / (1 + (shift - 1) * t)


def training_interval(
    path: Path, prediction: str, margin: float | None = None
) -> tuple[float, float]:
    """Ends of the times that training draws from, before the shift.

    Velocity on the linear and GVP paths is defined up to the clean end, and `margin` does not
    matter: [0, 1 - 1e-3]. Other predictions keep `margin` (1e-3) from both ends, and the VP path
    keeps it (1e-5) from the noise end only.

    Raises:
        ValueError: Unknown prediction, or a margin outside [0, 0.5).
    """
    require_prediction(prediction)
    if margin is not None and not 0 <= margin < 0.5:
        raise ValueError(f"margin must be in [0, 0.5), got {margin}")
    if isinstance(path, VPPath):
        return 0.0, 1 - (_VP_MARGIN if margin is None else margin)
    if prediction == "velocity":
        return 0.0, 1 - _MARGIN
    margin = _MARGIN if margin is None else margin
    return margin, 1 - margin


def logit_normal_quantile(
    probability: Float[Array, "*batch"], mean: float, std: float, low: float, high: float
) -> Float[Array, "*batch"]:
    """Inverse distribution function of sigmoid(N(mean, std²)) truncated to [low, high].

    Raises:
        ValueError: Not 0 <= low < high <= 1, or `std` is not positive.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"times must satisfy 0 <= low < high <= 1, got {low} and {high}")
    if std <= 0:
        raise ValueError(f"std of the logit must be positive, got {std}")

    def cumulative(t: float) -> float:
        if t in (0, 1):
            return float(t)
        return statistics.NormalDist(mean, std).cdf(math.log(t / (1 - t)))

    first, last = cumulative(low), cumulative(high)
    normal = jax.scipy.special.ndtri(first + (last - first) * probability)
    return jnp.clip(jax.nn.sigmoid(mean + std * normal), low, high)


@dataclasses.dataclass(frozen=True)
class TimeDistribution:
    """Distribution of training times.

    Attributes:
        kind: "uniform", or "logit_normal": the logit of t is normal (SD3, arXiv:2403.03206).
        shift: Applied last, see `time_shift`.
        logit_mean: Of the logit.
        logit_std: Of the logit.
    """

    kind: str = "uniform"
    shift: float = 1.0
    logit_mean: float = 0.0
    logit_std: float = 1.0

    def __post_init__(self) -> None:
        """Rejects an unknown kind."""
        if self.kind not in ("uniform", "logit_normal"):
            raise ValueError(
                f'time distribution must be "uniform" or "logit_normal", got {self.kind!r}'
            )

    def quantile(
        self, probability: Float[Array, "*batch"], interval: tuple[float, float]
    ) -> Float[Array, "*batch"]:
        """Times at the given probabilities; before the shift they lie in the interval."""
        low, high = interval
        if self.kind == "uniform":
            return shift_time(low + (high - low) * probability, self.shift)
        times = logit_normal_quantile(probability, self.logit_mean, self.logit_std, low, high)
        return shift_time(times, self.shift)
