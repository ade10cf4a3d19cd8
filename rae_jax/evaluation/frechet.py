"""Fréchet distance between two sets of features, each taken as a normal distribution."""

import dataclasses

import numpy as np
import scipy.linalg

from rae_jax.typing import Float


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of a set of features, in float64.

    Attributes:
        mean: [D].
        covariance: Unbiased, [D, D].
    """

    mean: Float[np.ndarray, " D"]
    covariance: Float[np.ndarray, "D D"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "N D"]) -> "Moments":
        """Moments of features.

        Raises:
            ValueError: Fewer than two samples.
        """
        if len(features) < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {len(features)}")
        features = np.asarray(features, np.float64)
        return cls(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


class StreamingMoments:
    """Moments of features that come in parts, in float64; parts can be merged in any order.

    Counts, means and centred second moments are joined by the rule of Chan, Golub and LeVeque
    (1979), which does not cancel as sums of squares do.
    """

    def __init__(self):
        self.count = 0
        self._mean: np.ndarray = np.zeros(0)
        self._scatter: np.ndarray = np.zeros((0, 0))

    def add(self, features: Float[np.ndarray, "N D"]) -> None:
        """Takes in some more rows."""
        rows = np.asarray(features, np.float64)
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        centred = rows - mean
        self._join(len(rows), mean, centred.T @ centred)

    def merge(self, other: "StreamingMoments") -> None:
        """Takes in what another one, perhaps of another process, has seen."""
        if other.count:
            self._join(other.count, other._mean, other._scatter)

    def moments(self) -> Moments:
        """Mean and unbiased covariance of all rows so far.

        Raises:
            ValueError: Fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.count}")
        return Moments(self._mean.copy(), self._scatter / (self.count - 1))

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if not self.count:
            self.count, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return
        if mean.shape != self._mean.shape:
            raise ValueError(
                f"features must have one width, got {self._mean.shape} and {mean.shape}"
            )
        total = self.count + count
        step = mean - self._mean
        self._mean += step * (count / total)
        self._scatter += scatter + np.outer(step, step) * (self.count * count / total)
        self.count = total


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|² + trace(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel 2017, arXiv:1706.08500, eq. 6).

    The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2),
    which is symmetric, so that singular covariances need no correction.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"features must have one width, got {first.mean.shape} and {second.mean.shape}"
        )
    values, vectors = scipy.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    crossed = scipy.linalg.eigvalsh(root @ second.covariance @ root)
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    difference = first.mean - second.mean
    return float(difference @ difference + traces - 2 * np.sqrt(crossed.clip(0)).sum())
