"""Latents in ArrayRecord shards: the format of a record, and the manifest beside them.

A folder holds `manifest.json` and the shards it names. With mirrored images there are two records
per image, one after the other: its latents, and those of its mirror image. A record is a
MessagePack map of

- `label`: number of the class;
- `latent`: bytes of the array in row-major order, little-endian, of the manifest's shape and type;
- `deviation`: likewise its standard deviation, where the autoencoder draws latents at random.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

from rae_jax.data import manifests
from rae_jax.data.decoding import UnreadableImageError
from rae_jax.data.manifests import Shard
from rae_jax.data.records import packed

FORMAT = "rae_jax latent records 1"

DTYPES: Mapping[str, np.dtype] = {
    "float32": np.dtype("<f4"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""What latents are stored as."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentManifest:
    """What is in a folder of latents.

    Attributes:
        classes: Names of the classes; empty without classes.
        num_images: How many images there are latents of.
        latent_shape: (h, w, C).
        dtype: Key of `DTYPES`.
        random: Whether records have deviations.
        mirrored: Whether there are latents of the mirror images.
        images: Size and crop of the images, and their split.
        encoder: Settings that name the autoencoder.
        fingerprints: Of the autoencoder's parts that latents depend on.
        shards: In the order of their records.
    """

    classes: tuple[str, ...]
    num_images: int
    latent_shape: tuple[int, int, int]
    dtype: str
    random: bool
    mirrored: bool
    images: dict[str, Any]
    encoder: dict[str, Any]
    fingerprints: dict[str, str]
    shards: tuple[Shard, ...] = ()

    def dumps(self) -> str:
        """The text of `manifest.json`."""
        return manifests.dumps(self, FORMAT)

    @property
    def versions(self) -> int:
        """Records per image."""
        return 2 if self.mirrored else 1

    def pack(self, label: int, latent: np.ndarray, deviation: np.ndarray | None = None) -> bytes:
        """A record of latents [h, w, C], float32 or as they are stored."""
        content: dict[str, Any] = {"label": label, "latent": self._bytes(latent)}
        if deviation is not None:
            content["deviation"] = self._bytes(deviation)
        return packed(content)

    def unpack(self, record: bytes, where: str) -> dict[str, Any]:
        """`latent`, perhaps `deviation`, and `label` of a record; `where` names it in errors.

        Raises:
            UnreadableImageError: The record is damaged.
        """
        try:
            content = msgpack.unpackb(record)
            arrays = {
                name: np.frombuffer(content[name], DTYPES[self.dtype]).reshape(self.latent_shape)
                for name in (("latent", "deviation") if self.random else ("latent",))
            }
            return {**arrays, "label": np.int32(content["label"])}
        except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
            raise UnreadableImageError(f"cannot read {where}: {error}") from error

    def _bytes(self, values: np.ndarray) -> bytes:
        return np.asarray(values, DTYPES[self.dtype]).tobytes()


def read_latent_manifest(folder: str | os.PathLike[str]) -> LatentManifest:
    """The manifest in `folder`.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is of another format, or damaged.
    """
    return manifests.read(
        folder,
        FORMAT,
        LatentManifest,
        lists=("classes", "latent_shape"),
        remedy="cache latents with tools/cache_latents.py",
    )
