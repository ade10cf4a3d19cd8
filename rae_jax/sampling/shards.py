"""Images of a set that is not finished yet: files `START-STOP.npy` in a folder, written once."""

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging

from rae_jax.files import AnyPath, any_path, local_copy, replacing
from rae_jax.sampling.save import read_header
from rae_jax.typing import Int, UInt8

_NAME = re.compile(r"(\d+)-(\d+)\.npy")
_BLOCK_BYTES = 2**23


@dataclasses.dataclass(frozen=True)
class Shard:
    """The images number `start` to `stop`, the last one excluded, in a file."""

    path: AnyPath
    start: int
    stop: int


def write_shard(folder: str | AnyPath, start: int, images: UInt8[np.ndarray, "n H W 3"]) -> Shard:
    """Writes consecutive images, the first of which is number `start`; whole or not at all."""
    stop = start + len(images)
    path = any_path(folder) / f"{start:08d}-{stop:08d}.npy"
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, images)
    return Shard(path, start, stop)


def find_shards(folder: str | AnyPath, image_shape: tuple[int, int, int]) -> list[Shard]:
    """The whole shards in `folder` in the order of their images, none of which is in two of them.

    Files cut short, as a machine that loses power can leave them, are passed over aloud.
    """
    found: list[Shard] = []
    for path in sorted(any_path(folder).glob("*.npy")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        shard = Shard(path, int(match[1]), int(match[2]))
        if not _is_whole(shard, image_shape):
            logging.warning("%s is damaged; its images are made again", path)
        elif not found or found[-1].stop <= shard.start:
            found.append(shard)
    return found


def _is_whole(shard: Shard, image_shape: tuple[int, int, int]) -> bool:
    expected = (shard.stop - shard.start, *image_shape)
    with shard.path.open("rb") as file:
        try:
            shape, dtype = read_header(file)
        except ValueError:
            return False
        size = file.tell() + int(np.prod(expected))
        found = file.seek(0, os.SEEK_END)
    return shape == expected and dtype == np.uint8 and found == size


def missing(shards: Sequence[Shard], num_images: int) -> Int[np.ndarray, " M"]:
    """Numbers of the images that no shard holds, rising."""
    done = np.zeros(num_images, bool)
    for shard in shards:
        done[shard.start : shard.stop] = True
    return np.flatnonzero(~done).astype(np.int32)


def read_blocks(shards: Sequence[Shard]) -> Iterator[UInt8[np.ndarray, "n H W 3"]]:
    """All images in order, some megabytes at a time."""
    for shard in shards:
        with local_copy(shard.path) as copy, copy.open("rb") as file:
            (count, *image_shape), dtype = read_header(file)
            size = int(np.prod(image_shape))
            rows = max(_BLOCK_BYTES // size, 1)
            for start in range(0, count, rows):
                part = min(rows, count - start)
                yield np.fromfile(file, dtype, part * size).reshape(part, *image_shape)


def read_images(shards: Sequence[Shard], index: Int[np.ndarray, " n"]) -> np.ndarray:
    """The images of these numbers, uint8 [n, H, W, 3], each of which must be in a shard."""
    starts = np.array([shard.start for shard in shards])
    images = []
    for number in index:
        shard = shards[np.searchsorted(starts, number, side="right") - 1]
        with local_copy(shard.path) as copy:
            images.append(np.load(copy, mmap_mode="r")[number - shard.start].copy())
    return np.stack(images)
