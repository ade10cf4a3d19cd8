"""Pictures of many images at once, and PNG files."""

import numpy as np
from PIL import Image

from rae_jax.files import AnyPath, replacing
from rae_jax.typing import UInt8


def grid(
    images: UInt8[np.ndarray, "N H W 3"], columns: int, padding: int = 2
) -> UInt8[np.ndarray, "height width 3"]:
    """Images side by side, row by row, with black lines of `padding` pixels round each.

    Raises:
        ValueError: No images, or `columns` below one.
    """
    count, height, width, _ = images.shape
    if count < 1 or columns < 1:
        raise ValueError(f"a grid needs images and columns, got {count} images, {columns} columns")
    columns = min(columns, count)
    rows = -(-count // columns)
    step_down, step_right = height + padding, width + padding
    canvas = np.zeros((rows * step_down + padding, columns * step_right + padding, 3), np.uint8)
    for index, image in enumerate(images):
        top = padding + index // columns * step_down
        left = padding + index % columns * step_right
        canvas[top : top + height, left : left + width] = image
    return canvas


def save_png(path: str | AnyPath, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes a PNG that is either complete or not there, making its folder if need be."""
    with replacing(path) as partial:
        Image.fromarray(image).save(partial, format="PNG")
