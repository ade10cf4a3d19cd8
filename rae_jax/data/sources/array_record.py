"""Images in ArrayRecord shards, as `tools/prepare_dataset.py` packs them; see `data.records`."""

import bisect
import itertools
import operator
import os
import pathlib
from typing import SupportsIndex

from grain.sources import ArrayRecordDataSource

from rae_jax.data.decoding import UnreadableImageError
from rae_jax.data.records import read_manifest, unpack
from rae_jax.data.sources.base import Record, record


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
        self._folder = pathlib.Path(path) / split
        manifest = read_manifest(self._folder)
        self._shards = [str(self._folder / shard.name) for shard in manifest.shards]
        for shard, file in zip(manifest.shards, self._shards, strict=True):
            _require_size(file, shard.size)
        counts = [shard.records for shard in manifest.shards]
        self._ends = list(itertools.accumulate(counts))
        if not self._ends:
            raise ValueError(f"{self._folder} holds no records; pack some images")
        # With their extent in the name, files are opened only when they are read.
        extents = [f"{file}[0:{count}]" for file, count in zip(self._shards, counts, strict=True)]
        self._records = ArrayRecordDataSource(extents)
        self.classes = manifest.classes

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: SupportsIndex) -> Record:
        index = operator.index(index)
        where = self.path(index)
        try:
            data = self._records[index]
        except RuntimeError as error:
            raise UnreadableImageError(f"cannot read {where}: {error}") from error
        return record(*unpack(data, where), index)

    def path(self, index: int) -> str:
        """Which record of which file record `index` is."""
        shard = bisect.bisect_right(self._ends, index)
        first = self._ends[shard - 1] if shard else 0
        return f"record {index - first} of {self._shards[shard]}"

    def __repr__(self) -> str:
        return f"ArrayRecords({os.fspath(self._folder)!r}, {len(self)} images)"


def _require_size(file: str, size: int) -> None:
    if not os.path.exists(file):
        raise FileNotFoundError(f"no shard {file}, which {pathlib.Path(file).parent} should hold")
    found = os.path.getsize(file)
    if found != size:
        raise ValueError(
            f"shard {file} must have {size} bytes, it has {found}; fetch it again, or pack it "
            "again with tools/prepare_dataset.py"
        )
