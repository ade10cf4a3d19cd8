"""Tables of positions that transformers add to their tokens."""

import numpy as np

from rae_jax.ops.images import resize_bicubic, resize_bicubic_antialiased
from rae_jax.typing import Array, Float


def _sincos(positions: np.ndarray, size: int) -> np.ndarray:
    frequencies = 10000.0 ** (-np.arange(size // 2) / (size / 2))
    angles = positions.reshape(-1, 1) * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(
    hidden_size: int, height: int, width: int, *, extent: float | None = None
) -> Float[np.ndarray, "N {hidden_size}"]:
    """Fixed sine-cosine table of a grid (MAE, arXiv:2111.06377), computed in float64.

    The first half of a row encodes the column index x as (sin(x w), cos(x w)), the second half the
    row index y likewise, with w_i = 10000^(-i / (hidden_size / 4)).

    Args:
        hidden_size: Width of a row, a multiple of 4.
        height: Rows of the grid.
        width: Columns of the grid.
        extent: Places run from 0 up to this number whatever the size of the grid, as in diffusers;
            None counts cells.

    Returns:
        One float32 row per grid cell, in raster order.

    Raises:
        ValueError: If `hidden_size` is not a multiple of 4.
    """
    if hidden_size % 4:
        raise ValueError(f"hidden_size must be a multiple of 4 for positions, got {hidden_size}")
    rows, columns = np.arange(height), np.arange(width)
    if extent is not None:
        rows, columns = rows * (extent / height), columns * (extent / width)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    halves = [_sincos(x, hidden_size // 2), _sincos(y, hidden_size // 2)]
    return np.concatenate(halves, axis=1).astype(np.float32)


def resize_position_table(
    table: Float[Array, "N D"],
    grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    antialias: bool = False,
) -> Float[Array, "M D"]:
    """Resamples a learned or stored table to another grid, bicubic.

    Args:
        table: One row per cell of `grid`, in raster order.
        grid: Rows and columns of the table's own grid.
        new_grid: Rows and columns wanted.
        antialias: Which of torch's two bicubic filters.

    Returns:
        One row per cell of `new_grid`; the table itself if the grids are equal.

    Raises:
        ValueError: If the table does not fill its grid.
    """
    height, width = grid
    if table.shape[0] != height * width:
        raise ValueError(f"a {height}x{width} grid needs {height * width} rows: {table.shape}")
    if new_grid == grid:
        return table
    resize = resize_bicubic_antialiased if antialias else resize_bicubic
    resized = resize(table.reshape(height, width, -1), *new_grid)
    return resized.reshape(new_grid[0] * new_grid[1], -1)
