"""The files of `torch.save` before PyTorch 1.6: pickles one after another, then the storages.

Such are the published files of Inception, VGG16 and LPIPS. Five pickles make a mark, the version,
facts of the machine, the content, and the keys of the storages. These follow in the order of the
keys, each as its number of elements in eight bytes and its values. Files are not trusted.
"""

import mmap
import pathlib
import pickletools
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from rae_jax.weights.torch_archive import LEGACY_MARK, ArchiveError
from rae_jax.weights.torch_pickle import PickleError, read

_VERSION = 1001
_AGAIN = "fetch it again"


def is_legacy(path: pathlib.Path) -> bool:
    """Whether a file begins as those of this format do."""
    with path.open("rb") as file:
        return file.read(len(LEGACY_MARK)) == LEGACY_MARK


class LegacyFile:
    """The parts of the mapped file.

    Attributes:
        content: Pickle of what was saved.
    """

    def __init__(self, path: pathlib.Path):
        """Finds the parts.

        Raises:
            ArchiveError: It is cut short, or of another version or machine.
            PickleError: One of its pickles is damaged.
        """
        with path.open("rb") as file:
            _, version, machine, self.content, keys = (_next_pickle(file) for _ in range(5))
            self._begin = file.tell()
            self._mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if _plain(version) != _VERSION:
            raise ArchiveError(f"its version is {_plain(version)}, not {_VERSION}")
        facts = _plain(machine)
        if not isinstance(facts, dict) or facts.get("little_endian") is not True:
            raise ArchiveError("its byte order is not little; write it anew with PyTorch")
        self._keys = _plain(keys)
        if not isinstance(self._keys, list) or len(set(map(str, self._keys))) != len(self._keys):
            raise ArchiveError(f"it has no list of its storages; {_AGAIN}")

    def storages(self, declared: Mapping[str, tuple[np.dtype, int]]) -> dict[str, memoryview]:
        """The bytes of every storage.

        Args:
            declared: Type and number of elements of each, as `content` tells them.

        Raises:
            ArchiveError: The file holds others, or is cut short.
        """
        if set(self._keys) != set(declared):
            raise ArchiveError(f"its storages are not those that its content names; {_AGAIN}")
        found, place = {}, self._begin
        for key in self._keys:
            dtype, length = declared[key]
            start, end = place + 8, place + 8 + length * dtype.itemsize
            if not 0 <= length or end > len(self._mapped):
                raise ArchiveError(f"it is cut short; {_AGAIN}")
            if struct.unpack("<q", self._mapped[place:start]) != (length,):
                raise ArchiveError(f"its storage {key} is not of {length} elements; {_AGAIN}")
            found[key], place = self._mapped[start:end], end
        if place != len(self._mapped):
            raise ArchiveError(f"it has {len(self._mapped) - place} bytes too many; {_AGAIN}")
        return found


def _next_pickle(file: BinaryIO) -> bytes:
    start = file.tell()
    try:
        for _ in pickletools.genops(file):
            pass
    except ValueError as error:
        raise PickleError(f"its pickle is damaged ({error}); {_AGAIN}") from None
    length = file.tell() - start
    file.seek(start)
    return file.read(length)


def _plain(content: bytes) -> Any:
    return read(content, {}, _nothing_stored, bool)


def _nothing_stored(identifier: Any) -> Any:
    raise PickleError("a storage is named where none can be")
