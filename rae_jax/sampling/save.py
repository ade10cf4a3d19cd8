"""Generated images as files: the npz of the ADM evaluation suite, and PNGs."""

import pathlib
from collections.abc import Sequence

import numpy as np

from rae_jax.files import replacing
from rae_jax.monitoring.image_grids import save_png
from rae_jax.typing import Int, UInt8


def save_npz(
    path: str | pathlib.Path,
    images: UInt8[np.ndarray, "N H W 3"],
    labels: Int[np.ndarray, " N"],
) -> None:
    """Writes samples in the layout of the ADM suite: images as `arr_0`, labels as `arr_1`.

    The file is complete or not there; an older one of that name is replaced.

    Raises:
        ValueError: The path does not end in ".npz".
    """
    path = pathlib.Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"the file name must end in .npz, got {path.name!r}")
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, arr_0=images, arr_1=labels.astype(np.int64))


def save_pngs(
    folder: str | pathlib.Path,
    images: UInt8[np.ndarray, "N H W 3"],
    first_index: int = 0,
    names: Sequence[str] | None = None,
) -> list[pathlib.Path]:
    """Writes one PNG per image, called by its sample index ("000017.png") or by `names`.

    Args:
        folder: Made if need be; files of the same name in it are replaced.
        images: Already rounded to 256 levels.
        first_index: Index of the first image among all samples.
        names: File names with ".png", one per image.

    Returns:
        The paths written.

    Raises:
        ValueError: Not one name per image.
    """
    if names is None:
        names = [f"{first_index + index:06d}.png" for index in range(len(images))]
    if len(names) != len(images):
        raise ValueError(f"expected one name per image, got {len(names)} for {len(images)}")
    paths = [pathlib.Path(folder) / name for name in names]
    for path, image in zip(paths, images, strict=True):
        save_png(path, image)
    return paths
