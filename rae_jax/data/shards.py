"""Records in the ArrayRecord shards of one folder, by number."""

import bisect
import itertools
import os
import pathlib
from collections.abc import Sequence

from grain.sources import ArrayRecordDataSource

from rae_jax.data.decoding import UnreadableImageError
from rae_jax.data.records import Shard


class ShardReader:
    """The records of some shards, in order; files are opened when they are first read.

    Args:
        folder: Where the shards are.
        shards: Their names, sizes and counts.
        remedy: Ends the message about a shard of another size.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: There are no records, or a shard has not the size noted.
    """

    def __init__(self, folder: pathlib.Path, shards: Sequence[Shard], *, remedy: str):
        self._files = [str(folder / shard.name) for shard in shards]
        for shard, file in zip(shards, self._files, strict=True):
            _require_size(file, shard.size, remedy)
        counts = [shard.records for shard in shards]
        self._ends = list(itertools.accumulate(counts))
        if not self._ends:
            raise ValueError(f"{folder} holds no records; pack some images")
        # With their extent in the name, files are opened only when they are read.
        extents = [f"{file}[0:{count}]" for file, count in zip(self._files, counts, strict=True)]
        self._records = ArrayRecordDataSource(extents)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> bytes:
        """Record number `index`.

        Raises:
            UnreadableImageError: It is damaged.
        """
        try:
            return self._records[index]
        except RuntimeError as error:
            raise UnreadableImageError(f"cannot read {self.path(index)}: {error}") from error

    def path(self, index: int) -> str:
        """Which record of which file record `index` is."""
        shard = bisect.bisect_right(self._ends, index)
        first = self._ends[shard - 1] if shard else 0
        return f"record {index - first} of {self._files[shard]}"


def _require_size(file: str, size: int, remedy: str) -> None:
    if not os.path.exists(file):
        raise FileNotFoundError(f"no shard {file}, which {pathlib.Path(file).parent} should hold")
    found = os.path.getsize(file)
    if found != size:
        raise ValueError(f"shard {file} must have {size} bytes, it has {found}; {remedy}")
