"""ArrayRecord shards: written whole or not at all, and read record by record."""

import bisect
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterable, Sequence

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from grain.sources import ArrayRecordDataSource

from rae_jax.data.decoding import UnreadableImageError
from rae_jax.data.records import Shard

_READ_BACK = 256


def write_shard(path: pathlib.Path, records: Iterable[bytes]) -> Shard:
    """Writes a shard, which gets its name when it is complete and has been read back.

    Each record stands in a group of its own, so that any one is read without its neighbours.

    Returns:
        Name, size and checksum; without records there is no file.

    Raises:
        OSError: It does not read as it was written.
    """
    # A process that outlived a killed run must not write to the same file.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    digests: list[bytes] = []
    try:
        # Encoded images do not get smaller, and pixels and latents little at the price of half
        # the speed.
        writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
        for record in records:
            writer.write(record)
            digests.append(hashlib.sha256(record).digest())
        writer.close()
        if digests:
            _require_read_back(partial, digests)
        shard = Shard(path.name, len(digests), partial.stat().st_size, checksum(partial))
        if digests:
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return shard


def checksum(path: pathlib.Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_read_back(path: pathlib.Path, digests: Sequence[bytes]) -> None:
    reader = ArrayRecordReader(str(path))
    for start in range(0, len(digests), _READ_BACK):
        stop = min(start + _READ_BACK, len(digests))
        found = [hashlib.sha256(record).digest() for record in reader.read(start, stop)]
        if found != digests[start:stop]:
            raise OSError(f"{path} does not read as it was written; look for a failing disk")
    reader.close()


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
