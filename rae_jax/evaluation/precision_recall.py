"""Precision and recall of generated images by nearest neighbours (arXiv:1904.06991)."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.evaluation.rows import RowFunction
from rae_jax.typing import Array, Float, Tree

_ROWS = 256
_SPARE = 8
"""Nearest points that are looked at beyond those that are asked for."""

_CHUNK = 64


def precision_recall(
    samples: Float[np.ndarray, "N D"],
    reference: Float[np.ndarray, "M _"],
    *,
    neighbours: int = 3,
    devices: list[Any] | None = None,
) -> tuple[float, float]:
    """Share of samples among the references, and of references among the samples.

    A point is among others if it lies in the ball of one of them, whose radius reaches to that
    one's `neighbours`-th nearest fellow (Kynkäänniemi 2019), as in the ADM suite.

    The devices take the distances in float32, block by block, with a bound of their error. What
    the bound leaves open is decided here in float64, so the result is that of exact distances on
    any device, and no table of all pairs is kept.

    Args:
        samples: One row per image.
        reference: Of the same width.
        neighbours: Rank of the fellow that a radius reaches to.
        devices: Those of this process unless given.

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
    # Distances from a far origin would lose their digits.
    centre = (samples.mean(axis=0, dtype=np.float64) + reference.mean(axis=0, dtype=np.float64)) / 2
    made, real = (_Points.of(rows, centre) for rows in (samples, reference))
    real_radii, made_radii = (_radii(points, neighbours, devices) for points in (real, made))
    return _share(made, real, real_radii, devices), _share(real, made, made_radii, devices)


@dataclasses.dataclass(frozen=True, eq=False)
class _Points:
    """Points around a common centre.

    Attributes:
        exact: As they came.
        near: The same around the centre, float32.
        squares: Squared lengths of `near`.
    """

    exact: Float[np.ndarray, "N D"]
    near: Float[np.ndarray, "N D"]
    squares: Float[np.ndarray, " N"]

    @classmethod
    def of(cls, rows: Float[np.ndarray, "N D"], centre: Float[np.ndarray, " D"]) -> "_Points":
        near = (rows - centre).astype(np.float32)
        squares = np.einsum("ij,ij->i", near, near, dtype=np.float64).astype(np.float32)
        return cls(rows, near, squares)

    def __len__(self) -> int:
        return len(self.near)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What bounds of distances are computed from."""
        return {"near": self.near, "squares": self.squares}

    def distances(self, point: Float[np.ndarray, " D"], rows: np.ndarray) -> np.ndarray:
        """Squared distances of a point to some of these, in float64."""
        return np.square(self.exact[rows].astype(np.float64) - point).sum(axis=1)


def _bounds(squares: Any, other_squares: Any, products: Any, width: int) -> tuple[Any, Any]:
    """Squared distances are at least the first and at most the second.

    The rounding of a sum of `width` products is at most `width` units of the last place of the sum
    of their sizes, which is at most half of the sum of both squares; here is twice that.
    """
    slack = np.float32((width + 16) * np.finfo(np.float32).eps)
    total = squares[:, None] + other_squares[None]
    return total * (1 - slack) - 2 * products, total * (1 + slack) - 2 * products


def _on_device(near: Array, squares: Array, others: Tree) -> tuple[Array, Array]:
    products = jnp.dot(near, others["near"].T, precision=jax.lax.Precision.HIGHEST)
    return _bounds(squares, others["squares"], products, near.shape[1])


def _here(
    points: _Points, rows: np.ndarray, others: _Points
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Number of each of some points, with the bounds of its distances to all others."""
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        products = points.near[part] @ others.near.T
        bounds = _bounds(points.squares[part], others.squares, products, points.near.shape[1])
        yield from zip(part, *bounds, strict=True)


def _radii(points: _Points, neighbours: int, devices: list[Any] | None) -> np.ndarray:
    """Squared distance of each point to its `neighbours`-th nearest fellow, exactly."""
    count = min(neighbours + _SPARE, len(points) - 1)

    def nearest(others: Tree, near: Array, squares: Array, number: Array) -> dict[str, Array]:
        low, _ = _on_device(near, squares, others)
        itself = jnp.arange(low.shape[1])[None] == number[:, None]
        values, index = jax.lax.top_k(-jnp.where(itself, jnp.inf, low), count)
        return {"index": index, "beyond": -values[:, -1]}

    settings = {"num_inputs": 3, "rows": _ROWS, "devices": devices}
    numbers = np.arange(len(points), dtype=np.int32)
    found = RowFunction(nearest, points.arrays, **settings)(points.near, points.squares, numbers)
    radii = np.empty(len(points))
    for row, index in enumerate(found["index"]):
        distances = points.distances(points.exact[row], index)
        radii[row] = np.partition(distances, neighbours - 1)[neighbours - 1]
    # No point that was not looked at can be nearer than `beyond`.
    proven = (radii <= np.maximum(found["beyond"], 0)) | (count == len(points) - 1)
    for row, low, high in _here(points, np.flatnonzero(~proven), points):
        low[row] = high[row] = np.inf
        near = np.flatnonzero(low <= np.partition(high, neighbours - 1)[neighbours - 1])
        distances = points.distances(points.exact[row], near)
        radii[row] = np.partition(distances, neighbours - 1)[neighbours - 1]
    return radii


def _share(
    points: _Points, centres: _Points, radii: np.ndarray, devices: list[Any] | None
) -> float:
    """Share of the points that lie in a ball around a centre."""

    def inside(others: Tree, near: Array, squares: Array) -> dict[str, Array]:
        low, high = _on_device(near, squares, others)
        reach = others["radii"][None]
        return {"surely": (high <= reach).any(axis=1), "perhaps": (low <= reach).any(axis=1)}

    arrays = {**centres.arrays, "radii": radii.astype(np.float32)}
    settings = {"num_inputs": 2, "rows": _ROWS, "devices": devices}
    found = RowFunction(inside, arrays, **settings)(points.near, points.squares)
    unsure = np.flatnonzero(found["perhaps"] & ~found["surely"])
    decided = sum(
        _reaches(points.exact[row], centres, radii, low - radii)
        for row, low, _ in _here(points, unsure, centres)
    )
    return float((found["surely"].sum() + decided) / len(points))


def _reaches(
    point: Float[np.ndarray, " D"],
    centres: _Points,
    radii: Float[np.ndarray, " M"],
    margins: Float[np.ndarray, " M"],
) -> bool:
    """Whether a ball reaches to the point; `margins` are at most the distances beyond each."""
    rows = np.flatnonzero(margins <= 0)
    rows = rows[np.argsort(margins[rows], kind="stable")]
    # The likeliest first: one ball is enough.
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
        if (centres.distances(point, some) <= radii[some]).any():
            return True
    return False
