"""Labelled images in ArrayRecord shards: the format of a record, and the manifest beside them.

A folder holds `manifest.json` and the shards it names. Every record stands in a group of its own,
so that any one is read without its neighbours. It is a MessagePack map of

- `label`: number of the class, and `name`: the file it was, relative to the packed folder;
- `image`: the bytes of the image file as they were; or, in their place,
- `pixels` and `size`: rows of RGB bytes, and [height, width].
"""

import dataclasses
import os
from typing import Any

import msgpack
import numpy as np

from rae_jax.data import manifests
from rae_jax.data.decoding import UnreadableImageError, decode
from rae_jax.data.manifests import Shard

FORMAT = "rae_jax image records 1"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is in a folder of shards.

    Attributes:
        classes: Names of the classes; empty without classes.
        preparation: What was done to the images, see `packing.Preparation.note`.
        unreadable: Files that could not be read and were left out, and why.
        shards: In the order of their records.
    """

    classes: tuple[str, ...]
    preparation: str
    unreadable: tuple[str, ...]
    shards: tuple[Shard, ...]

    def dumps(self) -> str:
        """The text of `manifest.json`."""
        return manifests.dumps(self, FORMAT)


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest in `folder`.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is of another format, or damaged.
    """
    return manifests.read(
        folder,
        FORMAT,
        Manifest,
        lists=("classes", "unreadable"),
        remedy="pack images with tools/prepare_dataset.py",
    )


def packed(content: dict[str, Any]) -> bytes:
    """A record of any kind: a MessagePack map."""
    record = msgpack.packb(content)
    assert record is not None  # for the type checker: there is no stream to write to
    return record


def pack_file(data: bytes, label: int, name: str) -> bytes:
    """A record of an image file."""
    return packed({"image": data, "label": label, "name": name})


def pack_pixels(pixels: np.ndarray, label: int, name: str) -> bytes:
    """A record of pixels, uint8 [H, W, 3]."""
    size = list(pixels.shape[:2])
    return packed({"pixels": pixels.tobytes(), "size": size, "label": label, "name": name})


def unpack(record: bytes, where: str) -> tuple[np.ndarray, int]:
    """Pixels, uint8 [H, W, 3], and label of a record; `where` names it in errors.

    Raises:
        UnreadableImageError: The record is damaged, or its image is.
    """
    try:
        content = msgpack.unpackb(record)
        label, name = int(content["label"]), str(content["name"])
        data = content.get("image")
        if data is None:
            pixels = np.frombuffer(content["pixels"], np.uint8)
            return pixels.reshape(*content["size"], 3), label
    except (ValueError, TypeError, LookupError, AttributeError, msgpack.UnpackException) as error:
        raise UnreadableImageError(f"cannot read {where}: {error}") from error
    return decode(data, f"{name} in {where}"), label
