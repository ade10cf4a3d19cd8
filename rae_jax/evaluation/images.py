"""Sets of images to score, read part by part from wherever they are kept.

Every set has one image size and 8 bits per channel. What stands for other pixels than those that
are scored is told in `notes`, and becomes a warning of the result; what cannot be scored without
a choice of the user's is an error.
"""

import dataclasses
import pathlib
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from rae_jax import build
from rae_jax.checkpointing.experiment import read_experiment
from rae_jax.configuration.schema import DataConfig, ImagesConfig
from rae_jax.data.sources.base import Source
from rae_jax.data.sources.image_folder import SUFFIXES, ImageFolder, images_below, read_image
from rae_jax.files import local_path
from rae_jax.sampling import reconstruct, samples
from rae_jax.sampling.save import open_images, read_header
from rae_jax.typing import Int, UInt8

ARRAY = "arr_0"
PACKED, PACKED_FILE = "images", "images.npz"
"""Kind of a work folder of `tools/pack_images.py`, and its file."""

JPEG = "JPEG files"
"""In the note of a set that was compressed with loss."""

_THREADS = 8
_CONVERSIONS = {
    "1": "black and white became RGB",
    "L": "grey became RGB",
    "P": "palettes became RGB",
    "CMYK": "CMYK became RGB without colour management",
    "YCbCr": "YCbCr became RGB",
    "LAB": "Lab became RGB",
    "HSV": "HSV became RGB",
    "LA": "grey became RGB and its transparency was dropped",
    "La": "grey became RGB and its transparency was dropped",
    "PA": "palettes became RGB and their transparency was dropped",
    "RGBA": "transparency was dropped",
    "RGBa": "transparency was dropped",
}


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in an order, none of which is in memory before it is asked for.

    Attributes:
        name: Where they are from.
        count: How many, at least one.
        image_size: Height and width of each.
        read: Images of some numbers, uint8 [n, H, W, 3].
        names: What each is called, without the ending of a file; empty if they have no names.
        notes: What a reader of scores must know of them.
    """

    name: str
    count: int
    image_size: tuple[int, int]
    read: Callable[[Int[np.ndarray, " n"]], UInt8[np.ndarray, "n H W 3"]]
    names: Sequence[str] = ()
    notes: tuple[str, ...] = ()

    def parts(
        self, size: int, *, process_index: int = 0, process_count: int = 1
    ) -> Iterator[tuple[Int[np.ndarray, " n"], UInt8[np.ndarray, "n H W 3"]]]:
        """Numbers and images of every part of `size`, at most, that falls to this process.

        Every process has some, if there are as many images as processes. The next part is read
        while the last one is worked on.
        """
        size = max(min(size, self.count // process_count), 1)
        starts = range(process_index * size, self.count, process_count * size)
        parts = (np.arange(start, min(start + size, self.count)) for start in starts)
        with ThreadPoolExecutor(1) as reader:
            pending = None
            for index in parts:
                started = index, reader.submit(self.read, index)
                if pending is not None:
                    yield pending[0], pending[1].result()
                pending = started
            if pending is not None:
                yield pending[0], pending[1].result()


def open_set(config: ImagesConfig) -> ImageSet:
    """The configured images.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: What is there are no images that can be scored together.
    """
    if config.path:
        return open_path(config.path)
    return from_source(build.source(config.data), config.data)


def open_path(path: str | pathlib.Path) -> ImageSet:
    """Images of an npz, of a folder of files, or of a work folder of one of our tools.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: What is there are no images that can be scored together.
    """
    path = local_path(path, "images")
    if path.is_dir():
        return _from_any_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"no images at {path}; name an npz, or a folder of images")
    if path.suffix != ".npz":
        raise ValueError(f"{path} must be an npz with {ARRAY}, or a folder of images")
    return from_npz(path)


def kind_of(folder: pathlib.Path) -> str:
    """Kind of a work folder; "" for any other folder."""
    try:
        return read_experiment(folder)[0]
    except (FileNotFoundError, ValueError):
        return ""


def _from_any_folder(folder: pathlib.Path) -> ImageSet:
    kind = kind_of(folder)
    results = {
        samples.KIND: (samples.NPZ, "tools/sample.py"),
        PACKED: (PACKED_FILE, "tools/pack_images.py"),
    }
    if kind in results:
        name, tool = results[kind]
        if not (folder / name).exists():
            raise ValueError(
                f"the {kind} in {folder} are not finished; start {tool} again with "
                f"--workdir={folder}"
            )
        return from_npz(folder / name)
    if kind not in ("", reconstruct.KIND):
        raise ValueError(
            f"{folder} is a work folder of another kind, {kind!r}, whose pictures are no set of "
            "images to score; name a folder of images, an npz, or a work folder of samples or "
            "reconstructions"
        )
    # The picture of all reconstructions lies beside them.
    leave_out = folder / reconstruct.PICTURE if kind == reconstruct.KIND else None
    return from_folder(folder, leave_out=leave_out)


def from_npz(path: str | pathlib.Path) -> ImageSet:
    """Images `arr_0` of an npz: mapped from the file, or from a temporary one if compressed.

    Raises:
        ValueError: It is damaged, or holds no `arr_0` of type uint8 [N, H, W, 3].
    """
    path = pathlib.Path(path)
    compressed = _require_array(path)
    try:
        images = _unpacked(path) if compressed else open_images(path)
    except ValueError as error:
        raise ValueError(f"cannot read {ARRAY} of {path}: {error}") from error
    _require_pixels(path, images)
    return ImageSet(str(path), len(images), images.shape[1:3], lambda index: images[index])


def npz_keys(path: str | pathlib.Path) -> list[str]:
    """Names of the arrays in an npz.

    Raises:
        ValueError: It is damaged, or no npz.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(
            f"{path} is not a complete npz ({error}); write or fetch it again"
        ) from error


def _require_array(path: pathlib.Path) -> bool:
    """Whether `arr_0`, which must be there, is compressed."""
    keys = npz_keys(path)
    if ARRAY not in keys:
        raise ValueError(
            f"{path} must hold images as {ARRAY}, it holds {', '.join(keys) or 'nothing'}"
        )
    with zipfile.ZipFile(path) as archive:
        return archive.getinfo(f"{ARRAY}.npy").compress_type != zipfile.ZIP_STORED


def _unpacked(path: pathlib.Path) -> np.ndarray:
    """A compressed array, mapped from a temporary file that goes with it."""
    with tempfile.TemporaryFile() as file:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(f"{ARRAY}.npy") as member:
                shutil.copyfileobj(member, file)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise ValueError(f"the file is damaged ({error}); write or fetch it again") from error
        file.seek(0)
        shape, dtype = read_header(file)
        # The mapping outlives the file object.
        return np.memmap(file, dtype, "r", offset=file.tell(), shape=shape)


def _require_pixels(path: pathlib.Path, images: np.ndarray) -> None:
    must = f"{path}: {ARRAY} must be uint8 [N, H, W, 3]"
    if images.dtype != np.uint8:
        low, high = (images[:16].min(), images[:16].max()) if images.size else (0, 0)
        raise ValueError(
            f"{must}, got {images.dtype} from {low:.4g} to {high:.4g} in its first images; scale "
            "them to 0..255, round and convert them"
        )
    if images.ndim == 4 and images.shape[-1] != 3 and images.shape[1] == 3:
        raise ValueError(f"{must}, got {images.shape}; move the channels to the last axis")
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"{must}, got {images.shape}; convert the images to RGB")
    if not images.size:
        raise ValueError(f"{must} with at least one image, got {images.shape}")


def from_folder(
    folder: str | pathlib.Path, *, leave_out: str | pathlib.Path | None = None
) -> ImageSet:
    """Every image below a folder, sorted by path.

    Grey, palette and CMYK images become RGB as PIL converts them, and transparency is dropped;
    both is noted, as are JPEG files.

    Args:
        folder: Sub-folders are looked through, hidden ones left out.
        leave_out: A file that is none of the images.

    Raises:
        ValueError: There are no images, they have several sizes, or one cannot be read.
    """
    folder = pathlib.Path(folder)
    paths = [path for path in images_below(folder) if pathlib.Path(path) != leave_out]
    if not paths:
        raise ValueError(f"no images in {folder}; accepted are {', '.join(SUFFIXES)}")
    with ThreadPoolExecutor(_THREADS) as pool:
        headers = list(pool.map(_header, paths))
    for path, (size, _, _) in zip(paths, headers, strict=True):
        if size != headers[0][0]:
            raise ValueError(
                f"all images of a set must have one size: {paths[0]} has {_by(headers[0][0])}, "
                f"{path} has {_by(size)}; leave the path empty and take the folder as a data set "
                "with data.source='image_folder', data.split='' and data.crop='center'"
            )
    width, height = headers[0][0]
    names = [str(pathlib.Path(path).relative_to(folder).with_suffix("")) for path in paths]
    notes = _notes(str(folder), [mode for _, mode, _ in headers], [kind for _, _, kind in headers])

    def read(index: np.ndarray) -> np.ndarray:
        return _stacked([paths[number] for number in index])

    return ImageSet(str(folder), len(paths), (height, width), read, names, notes)


def _stacked(paths: Sequence[str]) -> np.ndarray:
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.stack(list(pool.map(read_image, paths)))


def _header(path: str) -> tuple[tuple[int, int], str, str]:
    """Width and height, mode and format of a file."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode} has more than 8 bits; convert it first")
            return image.size, image.mode, str(image.format)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read image {path}: {error}") from error


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _notes(name: str, modes: Sequence[str], kinds: Sequence[str]) -> tuple[str, ...]:
    """What was not RGB without loss."""
    notes = []
    if jpegs := sum(kind in ("JPEG", "MPO") for kind in kinds):
        notes.append(f"{name}: {jpegs} of {len(kinds)} images are {JPEG}, whose losses are scored")
    changed = Counter(_CONVERSIONS[mode] for mode in modes if mode in _CONVERSIONS)
    notes += [f"{name}: {what} in {count} images" for what, count in changed.items()]
    return tuple(notes)


def from_source(records: Source, config: DataConfig) -> ImageSet:
    """Images of a data set after their crop, every one once and in order.

    Raises:
        ValueError: It has no images.
    """
    if not len(records):
        raise ValueError(f"{records!r} has no images to score")
    crops: list[Any] = build.transformations(config)

    def prepared(number: np.integer) -> np.ndarray:
        record = records[int(number)]
        for crop in crops:
            record = crop.map(record)
        return record["image"]

    def read(index: np.ndarray) -> np.ndarray:
        if config.num_threads == 0:
            return np.stack([prepared(number) for number in index])
        with ThreadPoolExecutor(_THREADS) as pool:
            return np.stack(list(pool.map(prepared, index)))

    size = (config.image_size, config.image_size)
    return ImageSet(_data_name(records, config), len(records), size, read, (), _jpegs(records))


def _data_name(records: Source, config: DataConfig) -> str:
    return f"{records!r}, crop {config.crop!r} to {config.image_size} pixels"


def _jpegs(records: Source) -> tuple[str, ...]:
    if not isinstance(records, ImageFolder):
        return ()
    paths = [records.path(index) for index in range(len(records))]
    # By name: a data set may have a million files, and those of ImageNet are called what they are.
    jpegs = sum(path.lower().endswith((".jpg", ".jpeg")) for path in paths)
    return (f"{records!r}: {jpegs} of {len(paths)} images are {JPEG}",) if jpegs else ()
