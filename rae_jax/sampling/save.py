"""Generated images as files: the npz of the ADM evaluation suite, and PNGs."""

import concurrent.futures
import pathlib
import struct
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rae_jax.files import AnyPath, any_path, replacing
from rae_jax.monitoring.image_grids import save_png
from rae_jax.typing import Int, UInt8

_IMAGES, _LABELS = "arr_0.npy", "arr_1.npy"


def save_npz(
    path: str | AnyPath,
    images: Iterable[UInt8[np.ndarray, "n H W 3"]],
    labels: Int[np.ndarray, " N"] | None,
    *,
    num_images: int | None = None,
) -> None:
    """Writes samples in the layout of the ADM suite: images as `arr_0`, labels as `arr_1`.

    Images are written part by part as they come, so that no more than one part is in memory. The
    file is complete or not there; an older one of that name is replaced.

    Args:
        path: Ends in ".npz".
        images: All images, in parts.
        labels: One per image; None writes a file without labels.
        num_images: How many images there are, for a file without labels.

    Raises:
        ValueError: The path has another ending, or there are not as many images as labels.
    """
    path = any_path(path)
    if path.suffix != ".npz":
        raise ValueError(f"the file name must end in .npz, got {path.name!r}")
    total = num_images if labels is None else len(labels)
    count = 0
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        # Sizes are in the header of a member, which is written before it is known how many bytes
        # follow: without the mark for large files, those above 4 GiB would end in an error.
        with archive.open(_IMAGES, "w", force_zip64=True) as member:
            for part in images:
                if not count:
                    shape = (total, *part.shape[1:])
                    np.lib.format.write_array_header_1_0(member, _header(shape, part.dtype))
                member.write(np.ascontiguousarray(part).data)
                count += len(part)
        if count != total:
            raise ValueError(f"expected one label per image, got {total} for {count}")
        if labels is not None:
            with archive.open(_LABELS, "w") as member:
                np.lib.format.write_array(member, labels.astype(np.int64), version=(1, 0))


def _header(shape: tuple[int | None, ...], dtype: np.dtype) -> dict[str, object]:
    return {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }


def open_images(path: str | pathlib.Path) -> np.ndarray:
    """The images of a file of `save_npz`, read from disk only as they are used.

    Files of others may hold another shape or type; that is for the caller to look at.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is compressed, or no npz with `arr_0`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(_IMAGES)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path} must be an npz with arr_0: {error}") from error
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{path} is compressed, which cannot be read in parts; use np.load")
    with pathlib.Path(path).open("rb") as file:
        # Where the array begins is told by the entry's own header alone: 26 bytes, then the
        # lengths of the name and of the extra field that follow.
        file.seek(entry.header_offset + 26)
        file.seek(sum(struct.unpack("<HH", file.read(4))), 1)
        shape, dtype = read_header(file)
        return np.memmap(path, dtype, "r", offset=file.tell(), shape=shape)


def read_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array in an open npy file, which is left at the first value.

    Raises:
        ValueError: It is no npy file of plain values in the order of C.
    """
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"the array must be in version 1 or 2 of its format, not {version}")
    shape, fortran_order, dtype = readers[version](file)
    if dtype.hasobject:  # Addresses of objects, which a mapping would follow into nowhere.
        raise ValueError("the array must hold numbers, not objects of Python")
    if fortran_order:
        raise ValueError("the array must be in the order of C, not of Fortran")
    return shape, dtype


def png_name(index: int) -> str:
    """Name of the PNG of a sample: "000017.png"."""
    return f"{index:06d}.png"


def save_pngs(
    folder: str | AnyPath,
    images: UInt8[np.ndarray, "N H W 3"],
    first_index: int = 0,
    names: Sequence[str] | None = None,
) -> list[AnyPath]:
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
        names = [png_name(first_index + index) for index in range(len(images))]
    if len(names) != len(images):
        raise ValueError(f"expected one name per image, got {len(names)} for {len(images)}")
    paths = [any_path(folder) / name for name in names]
    # Compression, which takes most of the time, leaves other threads free to run.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(save_png, paths, images))
    return paths
