"""Latents that `tools/cache_latents.py` has stored, in place of images; see `data.latents`."""

import functools
import operator
import os
from typing import SupportsIndex

import numpy as np
from grain import transforms as grain_transforms

from rae_jax.data.latents import read_latent_manifest
from rae_jax.data.shards import ShardReader
from rae_jax.data.sources.base import Record
from rae_jax.data.transforms import is_mirrored
from rae_jax.files import local_path

READ = "read"
"""Name of the function of a record that reads it: `read(mirrored)`."""


class CachedLatents:
    """Latents of labelled images, in the order of the images.

    A record is not read until a transform has said which version it wants: of a record on disk
    that is most of a megabyte, every second one would be read in vain.

    Args:
        path: The folder.

    Attributes:
        manifest: What the folder says about its latents.
        classes: Names of the classes; empty without classes.

    Raises:
        FileNotFoundError: There is no manifest, or a shard is missing.
        ValueError: No path is given, there are no records, or a shard has not the size noted.
    """

    def __init__(self, path: str | os.PathLike[str]):
        if not os.fspath(path):
            raise ValueError("the folder of cached latents is not set; set data.path")
        self._folder = local_path(path, "data.path")
        self.manifest = read_latent_manifest(self._folder)
        self.classes = self.manifest.classes
        remedy = "fetch it again, or run tools/cache_latents.py again"
        self._records = ShardReader(self._folder, self.manifest.shards, remedy=remedy)
        wanted = self.manifest.num_images * self.manifest.versions
        if len(self._records) != wanted:
            raise ValueError(
                f"the shards in {self._folder} must hold {wanted} records, they hold "
                f"{len(self._records)}; {remedy}"
            )

    def __len__(self) -> int:
        return self.manifest.num_images

    def __getitem__(self, index: SupportsIndex) -> Record:
        return {READ: functools.partial(self.read, operator.index(index))}

    def read(self, index: int, mirrored: bool) -> Record:
        """Record `index`: `latent` [h, w, C], perhaps its `deviation`, `label` and `index`.

        Raises:
            UnreadableImageError: It is damaged.
        """
        number = index * self.manifest.versions + mirrored
        content = self.manifest.unpack(self._records[number], self._records.path(number))
        return {**content, "index": np.int64(index)}

    def path(self, index: int) -> str:
        """Which record of which file the latents of image `index` are."""
        return self._records.path(index * self.manifest.versions)

    def __repr__(self) -> str:
        return f"CachedLatents({os.fspath(self._folder)!r}, {len(self)} images)"


class ReadLatents(grain_transforms.Map):
    """Reads the latents of the images as they are."""

    def map(self, element: Record) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The record with its latents."""
        return element[READ](False)


class KeepPlace(grain_transforms.Map):
    """Does nothing where images are cropped.

    The random numbers of a transform depend on its place in the chain. With this before it,
    `ReadMirrored` draws the same as `RandomFlip` does after a crop.
    """

    def map(self, element: Record) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The record itself."""
        return element


class ReadMirrored(grain_transforms.RandomMap):
    """Reads the latents of the mirror images where `RandomFlip` would mirror the images."""

    def random_map(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, element: Record, rng: np.random.Generator
    ) -> Record:
        """The record with its latents."""
        return element[READ](is_mirrored(rng))
