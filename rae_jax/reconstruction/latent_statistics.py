"""Mean and variance of the features of a whole data set, in one pass.

Moments of a batch are taken on the device about the batch's own mean, in float32; batches are
merged on the host in float64 (Chan, Golub and LeVeque 1979), which does not cancel as sums of
squares do. Beside this exact rule stands that of the RAE release, an average with momentum.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rae_jax.files import any_path, replacing
from rae_jax.typing import Array, Bool, Float

EPSILON = 1e-5
"""What latents' normalisation adds to the variance; differences are told in units of that scale."""


class BatchMoments(NamedTuple):
    """Moments of one batch as a device gives them.

    Attributes:
        samples: Their number, int32.
        shift: Their mean but for rounding, float32 [h, w, C].
        total: Sum of differences from the shift.
        squares: Sum of the squares of these differences.
    """

    samples: Array | np.ndarray
    shift: Array | np.ndarray
    total: Array | np.ndarray
    squares: Array | np.ndarray

    def in_float64(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Count, mean and sum of squared deviations from it."""
        count = int(self.samples)
        offset = np.asarray(self.total, np.float64) / count
        deviation = np.asarray(self.squares, np.float64) - count * offset**2
        return count, np.asarray(self.shift, np.float64) + offset, np.maximum(deviation, 0)


def batch_moments(features: Float[Array, "B h w C"], valid: Bool[Array, " B"]) -> BatchMoments:
    """Moments of the rows that are valid; the others only fill up the batch."""
    features = features.astype(jnp.float32)
    weight = valid.astype(jnp.float32)[:, None, None, None]
    count = valid.sum(dtype=jnp.int32)
    shift = (features * weight).sum(axis=0) / jnp.maximum(count, 1).astype(jnp.float32)
    difference = (features - shift[None]) * weight
    return BatchMoments(count, shift, difference.sum(axis=0), jnp.square(difference).sum(axis=0))


@dataclasses.dataclass(frozen=True, eq=False)
class LatentStatistics:
    """Mean and variance of the features of a data set, as files hold them.

    Attributes:
        count: Number of images; 0 if not known.
        mean: Float64 [h, w, C].
        variance: Population variance, float64 [h, w, C].
        encoder: Fingerprint of the encoder that gave the features; "" if not noted.
    """

    count: int
    mean: np.ndarray
    variance: np.ndarray
    encoder: str = ""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an npz: `mean`, `variance` (float64 [h, w, C]), `count`, `encoder`; atomically.

        The file takes its name only when it is complete.
        """
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(
                file,
                mean=self.mean,
                variance=self.variance,
                count=self.count,
                encoder=self.encoder,
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "LatentStatistics":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file holds something else.
        """
        located = any_path(path)
        try:
            with located.open("rb") as file, np.load(file) as arrays:
                mean, variance, count = arrays["mean"], arrays["variance"], int(arrays["count"])
                encoder = str(arrays["encoder"]) if "encoder" in arrays else ""
        except FileNotFoundError:
            raise FileNotFoundError(
                f"no latent statistics at {path}; compute them or correct the path"
            ) from None
        except Exception as error:
            # numpy raises many types for files that are not its own, with advice that misleads.
            raise ValueError(
                f"{path} must be an npz with mean, variance and count, as the tool for latent "
                "statistics writes it; compute them or correct the path"
            ) from error
        if mean.ndim != 3 or mean.shape != variance.shape:
            raise ValueError(
                f"{path}: mean and variance must have one shape (h, w, C), got {mean.shape} and "
                f"{variance.shape}"
            )
        return cls(count, mean.astype(np.float64), variance.astype(np.float64), encoder)

    def difference(self, reference: "LatentStatistics") -> dict[str, dict[str, float]]:
        """How far mean and deviation are from those of `reference`, over all cells and channels.

        Returns:
            For "mean" and "std" the largest and the mean absolute difference, "max_absolute" and
            "mean_absolute", and the same in units of sqrt(variance + 1e-5) of the reference, the
            scale by which latents are normalised: "max_relative" and "mean_relative".
        """
        scale = np.sqrt(reference.variance + EPSILON)
        pairs = {
            "mean": (self.mean, reference.mean),
            "std": (np.sqrt(self.variance), np.sqrt(reference.variance)),
        }
        return {name: _distance(ours, theirs, scale) for name, (ours, theirs) in pairs.items()}


def _distance(ours: np.ndarray, theirs: np.ndarray, scale: np.ndarray) -> dict[str, float]:
    distance = {"absolute": np.abs(ours - theirs)}
    distance["relative"] = distance["absolute"] / scale
    measures = {"max": np.max, "mean": np.mean}
    return {
        f"{measure}_{name}": float(function(values))
        for name, values in distance.items()
        for measure, function in measures.items()
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Exact statistics of some batches.

    Attributes:
        count: Number of samples.
        mean: Float64 [h, w, C].
        deviation: Float64 [h, w, C], sum over samples of (features - mean)².
    """

    count: int
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, batch: BatchMoments) -> "Moments":
        """Statistics of one batch, of at least one sample."""
        return cls(*batch.in_float64())

    def merge(self, other: "Moments") -> "Moments":
        """Statistics of both sets of samples."""
        count = self.count + other.count
        step = other.mean - self.mean
        share = other.count / count
        deviation = self.deviation + other.deviation + step**2 * (self.count * share)
        return Moments(count, self.mean + step * share, deviation)

    def statistics(self) -> LatentStatistics:
        """Mean and population variance."""
        return LatentStatistics(self.count, self.mean, self.deviation / self.count)


@dataclasses.dataclass(frozen=True, eq=False)
class MomentumAverage:
    """What some batches make of running averages: running becomes kept * running + its own.

    The rule of the RAE release, by which early batches are forgotten; it starts from mean 0 and
    variance 1, and a share of the start stays. As the batches of a run join into one such step,
    they can be merged like `Moments`, but in order.

    Attributes:
        count: Number of samples.
        kept: Share of the averages before that is kept.
        mean: What is added to the running mean, float64 [h, w, C].
        variance: What is added to the running variance, float64 [h, w, C].
    """

    count: int
    kept: float
    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, batch: BatchMoments, momentum: float) -> "MomentumAverage":
        """The step of one batch, whose size does not matter."""
        count, mean, deviation = batch.in_float64()
        return cls(count, 1 - momentum, momentum * mean, momentum * (deviation / count))

    def merge(self, other: "MomentumAverage") -> "MomentumAverage":
        """This step and then the other."""
        return MomentumAverage(
            self.count + other.count,
            self.kept * other.kept,
            self.mean * other.kept + other.mean,
            self.variance * other.kept + other.variance,
        )


def momentum_combine(averages: Sequence[MomentumAverage]) -> LatentStatistics:
    """Statistics of the averages of several ranks, as the RAE release joins them.

    Mean of the means; mean of the variances plus population variance of the means.
    """
    means = np.stack([average.mean for average in averages])
    variances = np.stack([average.variance + average.kept for average in averages])
    count = sum(average.count for average in averages)
    return LatentStatistics(count, means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0))
