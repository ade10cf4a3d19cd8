"""Folders of image files, with one sub-folder per class or without classes."""

import operator
import os
import pathlib
from typing import SupportsIndex

import numpy as np

from rae_jax.data.decoding import decode
from rae_jax.data.sources.base import Record, record
from rae_jax.files import local_path

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""File names that count as images, in any case."""


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Pixels of an image file, uint8 [H, W, 3]; grey becomes RGB, transparency is dropped.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read from the disk.
        UnreadableImageError: It is not an image, is damaged, or has more than 8 bits per channel.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no image file {os.fspath(path)}") from None
    return decode(data, os.fspath(path))


def images_below(folder: pathlib.Path) -> list[str]:
    """Image files in `folder` and its sub-folders, sorted; hidden ones are left out."""
    found = []
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(where, name) for name in files if _is_image(name)]
    return sorted(found)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


class ImageFolder:
    """Images in the layout `folder/class/.../image.jpg`, or `folder/image.jpg` without classes.

    Classes are numbered in the order of their sorted names; without classes every label is 0.
    Records are sorted by class, then by path.

    Args:
        path: The folder.
        split: Sub-folder of `path` that holds the classes; "" for `path` itself.

    Attributes:
        classes: Names of the classes; empty without classes.
        labels: Of all records, int32 [n].

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: No path is given, the folder or one of its classes holds no image, or images
            lie beside class folders.
    """

    def __init__(self, path: str | os.PathLike[str], split: str = ""):
        if not os.fspath(path):
            raise ValueError("the image folder is not set; set data.path")
        folder = local_path(path, "data.path") / split
        if not folder.is_dir():
            raise FileNotFoundError(_missing(pathlib.Path(path), split))
        self._folder = folder
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
        names = sorted(entry.name for entry in visible if entry.is_dir())
        loose = sorted(entry.path for entry in visible if entry.is_file() and _is_image(entry.name))
        by_class = {name: images_below(folder / name) for name in names}
        empty = [name for name, paths in by_class.items() if not paths]
        if not loose and len(empty) == len(names):
            raise ValueError(f"no images in {folder}; accepted are {', '.join(SUFFIXES)}")
        if len(empty) == len(names):
            by_class, names = {}, []
        elif loose:
            raise ValueError(
                f"{loose[0]} lies beside class folders such as {names[0]}; "
                "move it into a class, or the folders elsewhere"
            )
        elif empty:
            raise ValueError(f"no images in class folders {', '.join(empty)} of {folder}")
        self.classes = tuple(names)
        self._paths = loose + [path for paths in by_class.values() for path in paths]
        counts = [len(paths) for paths in by_class.values()] or [len(loose)]
        self.labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: SupportsIndex) -> Record:
        index = operator.index(index)
        return record(read_image(self._paths[index]), self.labels[index], index)

    def path(self, index: int) -> str:
        """Path of the file behind record `index`."""
        return self._paths[index]

    def __repr__(self) -> str:
        return f"ImageFolder({os.fspath(self._folder)!r}, {len(self)} images)"


def _missing(path: pathlib.Path, split: str) -> str:
    if not path.is_dir():
        return f"no image folder {path}"
    return (
        f"no folder {split!r} in {path}; "
        "set data.split to one of its sub-folders, or to '' for the folder itself"
    )
