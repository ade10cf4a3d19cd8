"""Precision and recall of generated images by nearest neighbours (arXiv:1904.06991)."""

from collections.abc import Iterator

import numpy as np

from rae_jax.typing import Float

_ROWS = 1000


def precision_recall(
    samples: Float[np.ndarray, "N D"], reference: Float[np.ndarray, "M _"], *, neighbours: int = 3
) -> tuple[float, float]:
    """Share of samples among the references, and of references among the samples.

    A point is among others if it lies in the ball of one of them, whose radius reaches to that
    one's `neighbours`-th nearest fellow (Kynkäänniemi 2019), as in the ADM suite. Distances are
    taken in float64, in blocks: no table of all pairs is kept.

    Raises:
        ValueError: Too few rows for so many neighbours, or features of two widths.
    """
    if samples.shape[1] != reference.shape[1]:
        raise ValueError(
            f"features must have one width, got {samples.shape[1]} and {reference.shape[1]}"
        )
    if min(len(samples), len(reference)) <= neighbours:
        raise ValueError(
            f"{neighbours} neighbours need more than {neighbours} samples and references, got "
            f"{len(samples)} and {len(reference)}"
        )
    samples, reference = samples.astype(np.float64), reference.astype(np.float64)
    radii = _radii(reference, neighbours), _radii(samples, neighbours)
    return _share(samples, reference, radii[0]), _share(reference, samples, radii[1])


def _distances(points: np.ndarray, others: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Squared distances of a block of points to all others, and the block's first row."""
    squares = np.square(others).sum(axis=1)
    for start in range(0, len(points), _ROWS):
        block = points[start : start + _ROWS]
        yield start, np.square(block).sum(axis=1)[:, None] + squares - 2 * block @ others.T


def _radii(points: np.ndarray, neighbours: int) -> np.ndarray:
    radii = np.empty(len(points))
    for start, table in _distances(points, points):
        rows = np.arange(len(table))
        table[rows, start + rows] = -np.inf  # A point comes first, before copies of it.
        radii[start : start + len(table)] = np.partition(table, neighbours, axis=1)[:, neighbours]
    return radii


def _share(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> float:
    inside = [(table <= radii).any(axis=1) for _, table in _distances(points, centres)]
    return float(np.concatenate(inside).mean())
