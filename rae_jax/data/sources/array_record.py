"""Images in ArrayRecord shards, as `tools/prepare_dataset.py` packs them; see `data.records`."""

import operator
import os
from typing import SupportsIndex

from rae_jax.data.records import read_manifest, unpack
from rae_jax.data.shards import ShardReader
from rae_jax.data.sources.base import Record, record
from rae_jax.files import local_path


class ArrayRecords:
    """Images of a packed folder, in the order in which they were packed.

    Args:
        path: The folder.
        split: Sub-folder of `path` with the shards; "" for `path` itself.

    Attributes:
        classes: Names of the classes; empty without classes.

    Raises:
        FileNotFoundError: There is no manifest, or a shard is missing.
        ValueError: No path is given, there are no records, or a shard has not the size noted.
    """

    def __init__(self, path: str | os.PathLike[str], split: str = ""):
        if not os.fspath(path):
            raise ValueError("the folder of ArrayRecord shards is not set; set data.path")
        self._folder = local_path(path, "data.path") / split
        manifest = read_manifest(self._folder)
        remedy = "fetch it again, or pack it again with tools/prepare_dataset.py"
        self._records = ShardReader(self._folder, manifest.shards, remedy=remedy)
        self.classes = manifest.classes

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> Record:
        index = operator.index(index)
        return record(*unpack(self._records[index], self.path(index)), index)

    def path(self, index: int) -> str:
        """Which record of which file record `index` is."""
        return self._records.path(index)

    def __repr__(self) -> str:
        return f"ArrayRecords({os.fspath(self._folder)!r}, {len(self)} images)"
