"""Mean and variance of the features of a whole data set, in one pass.

Moments of a batch are taken on the device about the batch's own mean; batches are merged on the
host in float64 (Chan, Golub and LeVeque 1979). The result depends on neither the order nor the
size of batches beyond float32 rounding inside one batch.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.files import replacing
from rae_jax.typing import Array, Float


def batch_moments(
    features: Float[Array, "B h w C"],
) -> tuple[Float[Array, "h w C"], Float[Array, "h w C"], Float[Array, "h w C"]]:
    """Float32 moments of one batch, for `LatentStatistics.add_moments`.

    Returns:
        A shift close to the mean, the sum of differences from it, the sum of their squares.
    """
    features = features.astype(jnp.float32)
    shift = features.mean(axis=0)
    difference = features - shift[None]
    return shift, difference.sum(axis=0), jnp.square(difference).sum(axis=0)


_jitted_moments = jax.jit(batch_moments)


@dataclasses.dataclass(frozen=True, eq=False)
class LatentStatistics:
    """Count, mean and sum of squared deviations of everything seen so far.

    Attributes:
        count: Number of samples.
        mean: Float64 [h, w, C].
        deviation: Float64 [h, w, C], sum over samples of (features - mean)².
        encoder: Fingerprint of the encoder that gave the features; "" if not noted.
    """

    count: int
    mean: np.ndarray
    deviation: np.ndarray
    encoder: str = ""

    @classmethod
    def empty(cls, shape: tuple[int, int, int]) -> "LatentStatistics":
        """Statistics of no samples of `shape` (h, w, C)."""
        return cls(0, np.zeros(shape), np.zeros(shape))

    @property
    def variance(self) -> np.ndarray:
        """Population variance, float64 [h, w, C]."""
        if self.count == 0:
            raise ValueError("no samples were added, so there is no variance")
        return self.deviation / self.count

    def add(self, features: Float[Array, "B h w C"]) -> "LatentStatistics":
        """Statistics with one more batch."""
        if features.shape[1:] != self.mean.shape:
            raise ValueError(
                f"statistics of shape {self.mean.shape} (h, w, C), got a batch of "
                f"{features.shape[1:]}"
            )
        return self.add_moments(features.shape[0], *_jitted_moments(features))

    def add_moments(
        self,
        count: int,
        shift: Float[Array | np.ndarray, "h w C"],
        total: Float[Array | np.ndarray, "h w C"],
        squares: Float[Array | np.ndarray, "h w C"],
    ) -> "LatentStatistics":
        """Statistics with one more batch, given its size and `batch_moments`."""
        offset = np.asarray(total, np.float64) / count
        deviation = np.asarray(squares, np.float64) - count * offset**2
        batch = LatentStatistics(count, np.asarray(shift, np.float64) + offset, deviation)
        return self.merge(batch)

    def merge(self, other: "LatentStatistics") -> "LatentStatistics":
        """Statistics of both sets of samples, for example of two processes."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"statistics of {self.mean.shape} and {other.mean.shape} cannot be merged"
            )
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        share = other.count / count
        deviation = self.deviation + other.deviation + step**2 * (self.count * share)
        return LatentStatistics(count, self.mean + step * share, deviation)

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
        try:
            with np.load(path) as arrays:
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
        deviation = variance.astype(np.float64) * count
        return cls(count, mean.astype(np.float64), deviation, encoder)


def momentum_update(
    mean: Float[Array, "h w C"],
    variance: Float[Array, "h w C"],
    features: Float[Array, "B h w C"],
    *,
    momentum: float = 0.1,
) -> tuple[Float[Array, "h w C"], Float[Array, "h w C"]]:
    """One batch of the RAE release's own rule: an exponential average that forgets early batches.

    Start from mean 0 and variance 1. The result depends on the order of the batches and keeps a
    share of the start; `LatentStatistics` is exact.
    """
    features = features.astype(jnp.float32)
    mean = (1 - momentum) * mean + momentum * features.mean(axis=0)
    return mean, (1 - momentum) * variance + momentum * features.var(axis=0)


def momentum_combine(
    means: Float[Array, "ranks h w C"], variances: Float[Array, "ranks h w C"]
) -> tuple[Float[Array, "h w C"], Float[Array, "h w C"]]:
    """Joins the `momentum_update` averages of several ranks as the RAE release does.

    Mean of the means; mean of the variances plus population variance of the means.
    """
    return means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)
