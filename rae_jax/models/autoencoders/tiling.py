"""Images in overlapping tiles, one after another, blended as diffusers blends them.

What an encoder or decoder needs in memory is then that of one tile, whatever the image's size.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.typing import Array, Float

Pair = tuple[int, int]
"""Of height and width."""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How images are cut; the same places of the latents are cut for decoding.

    Attributes:
        size: Height and width of a tile in pixels. Images of no more pixels a side are not cut.
        stride: From one tile to the next; what is left of the size is blended.
    """

    size: Pair = (512, 512)
    stride: Pair = (448, 448)

    def __post_init__(self) -> None:
        """Rejects tiles that leave gaps."""
        for size, stride in zip(self.size, self.stride, strict=True):
            if not 0 < stride <= size:
                raise ValueError(
                    f"tiles of size {self.size} need strides above 0 and at most as large, got "
                    f"{self.stride}"
                )

    def cuts(self, height: int, width: int) -> bool:
        """Whether an image of this size is cut."""
        return height > self.size[0] or width > self.size[1]

    def require_multiples(self, step: int) -> None:
        """Raises ValueError unless tiles begin and end between latents of `step` pixels."""
        if any(side % step for side in (*self.size, *self.stride)):
            raise ValueError(
                f"size and stride of tiles must be multiples of {step}, got {self.size} and "
                f"{self.stride}"
            )

    def of_latents(self, step: int) -> "Tiling":
        """The same tiles of latents of `step` pixels a side."""
        size, stride = self.size, self.stride
        return Tiling((size[0] // step, size[1] // step), (stride[0] // step, stride[1] // step))

    @property
    def overlap(self) -> Pair:
        """Rows and columns that a tile shares with the next."""
        return self.size[0] - self.stride[0], self.size[1] - self.stride[1]


def in_tiles(
    function: Callable[[Array], Array],
    values: Float[Array, "B H W C"],
    tiling: Tiling,
    *,
    overlap: Pair,
    keep: Pair,
) -> Float[Array, "B H2 W2 D"]:
    """`function` of maps, a tile at a time.

    Tiles at the lower and right border may be smaller. Each is blended linearly into the one above
    and then into the one to its left, both as they are after their own blending; then its first
    rows and columns are kept.

    Args:
        function: Maps [B, h, w, C] to [B, h2, w2, D]; compiled once for each size of tile.
        values: The maps.
        tiling: In the units of `values`.
        overlap: Rows and columns of the results that are blended.
        keep: Rows and columns of the results that are kept: from one tile to the next.
    """
    height, width = values.shape[1:3]
    starts = range(0, height, tiling.stride[0]), range(0, width, tiling.stride[1])
    places = [(row, column) for row in starts[0] for column in starts[1]]
    tiles = _evaluated(function, values, places, tiling.size)
    blended: dict[Pair, Array] = {}
    rows = []
    for row in starts[0]:
        kept = []
        for column in starts[1]:
            tile = tiles.pop((row, column))
            if row:
                tile = _blend(blended[row - tiling.stride[0], column], tile, overlap[0], axis=1)
            if column:
                tile = _blend(blended[row, column - tiling.stride[1]], tile, overlap[1], axis=2)
            blended[row, column] = tile
            kept.append(tile[:, : keep[0], : keep[1]])
        rows.append(jnp.concatenate(kept, axis=2))
    return jnp.concatenate(rows, axis=1)


def _evaluated(
    function: Callable[[Array], Array],
    values: Array,
    places: Sequence[Pair],
    size: Pair,
) -> dict[Pair, Array]:
    """Results of all tiles by their first row and column; those of one shape share a loop."""
    batch, height, width, channels = values.shape
    of_shape: dict[Pair, list[Pair]] = {}
    for row, column in places:
        shape = min(size[0], height - row), min(size[1], width - column)
        of_shape.setdefault(shape, []).append((row, column))
    results = {}
    for shape, found in of_shape.items():

        def evaluate(place: Array, shape: Pair = shape) -> Array:
            start = (0, place[0], place[1], 0)
            return function(jax.lax.dynamic_slice(values, start, (batch, *shape, channels)))

        stacked = jax.lax.map(evaluate, jnp.asarray(found, jnp.int32))
        results |= {place: stacked[index] for index, place in enumerate(found)}
    return results


def _blend(before: Array, tile: Array, overlap: int, *, axis: int) -> Array:
    """The tile, its first rows or columns fading in where the last of `before` fade out."""
    overlap = min(before.shape[axis], tile.shape[axis], overlap)
    if not overlap:
        return tile
    shape = [1] * tile.ndim
    shape[axis] = overlap
    share = jnp.asarray(np.arange(overlap) / overlap, tile.dtype).reshape(shape)
    end = before.shape[axis]
    old = jax.lax.slice_in_dim(before, end - overlap, end, axis=axis)
    new = jax.lax.slice_in_dim(tile, 0, overlap, axis=axis)
    rest = jax.lax.slice_in_dim(tile, overlap, tile.shape[axis], axis=axis)
    return jnp.concatenate([old * (1 - share) + new * share, rest], axis=axis)
