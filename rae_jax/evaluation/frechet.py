"""Fréchet distance between two sets of features, each taken as a normal distribution."""

import dataclasses

import numpy as np
import scipy.linalg

from rae_jax.typing import Float

_BLOCK = 1024


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
    """Moments of features that come in parts, in float64; those of several can be merged.

    Counts, means and centred second moments are joined by the rule of Chan, Golub and LeVeque
    (1979), which does not cancel as sums of squares do. Rows are taken in blocks of a fixed
    length, whatever the parts that they come in, so that equal rows give equal bits.
    """

    def __init__(self, width: int):
        self.count = 0
        self.mean: np.ndarray = np.zeros(width)
        self.scatter: np.ndarray = np.zeros((width, width))
        self._waiting: list[np.ndarray] = []

    def add(self, features: Float[np.ndarray, "N D"]) -> None:
        """Takes in some more rows."""
        if features.shape[1:] != self.mean.shape:
            raise ValueError(
                f"features must have one width, got {self.mean.shape} and {features.shape[1:]}"
            )
        self._waiting.append(features)
        if sum(map(len, self._waiting)) < _BLOCK:
            return
        rows = np.concatenate(self._waiting)
        whole = len(rows) // _BLOCK * _BLOCK
        for start in range(0, whole, _BLOCK):
            self._take(rows[start : start + _BLOCK])
        self._waiting = [rows[whole:].copy()]

    def finish(self) -> None:
        """Takes in the rows that did not fill a block yet."""
        rows = np.concatenate([np.zeros((0, len(self.mean))), *self._waiting])
        self._waiting = []
        if len(rows):
            self._take(rows)

    def merge(
        self,
        count: int,
        mean: Float[np.ndarray, " D"],
        scatter: Float[np.ndarray, "D D"],
    ) -> None:
        """Takes in what another one, perhaps of another process, has when it is finished."""
        self.finish()
        if count:
            self._join(count, mean, scatter)

    def moments(self) -> Moments:
        """Mean and unbiased covariance of all rows so far.

        Raises:
            ValueError: Fewer than two rows.
        """
        self.finish()
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.count}")
        return Moments(self.mean.copy(), self.scatter / (self.count - 1))

    def _take(self, rows: np.ndarray) -> None:
        rows = rows.astype(np.float64)
        mean = rows.mean(axis=0)
        centred = rows - mean
        self._join(len(rows), mean, centred.T @ centred)

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.count + count
        step = mean - self.mean
        self.mean += step * (count / total)
        self.scatter += scatter + np.outer(step, step) * (self.count * count / total)
        self.count = total


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|² + trace(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel 2017, arXiv:1706.08500, eq. 6).

    The trace of the root is the sum of the roots of the eigenvalues of F' C2 F for C1 = F F'. With
    F of as many columns as C1 has rank, and C1 of no higher rank than C2, singular covariances
    need no correction: the eigenvalues that are zero but for rounding, whose roots would add up,
    are not there.

    Raises:
        ValueError: The two are of features of different widths.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"features must have one width, got {first.mean.shape} and {second.mean.shape}"
        )
    factors = _factor(first.covariance), _factor(second.covariance)
    covariances = first.covariance, second.covariance
    lower = int(factors[1].shape[1] < factors[0].shape[1])
    crossed = factors[lower].T @ covariances[1 - lower] @ factors[lower]
    roots = np.sqrt(scipy.linalg.eigvalsh(crossed).clip(0)) if crossed.size else np.zeros(0)
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    difference = first.mean - second.mean
    return max(float(difference @ difference + traces - 2 * roots.sum()), 0.0)


def _factor(covariance: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D rank"]:
    """F with F F' the covariance."""
    values, vectors = scipy.linalg.eigh(covariance, driver="evd")
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])
