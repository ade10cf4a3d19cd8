"""The zip archives of `torch.save`: their records as views of the mapped file, not trusted."""

import mmap
import pathlib
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence

_ADVICE = (
    "where PyTorch is installed, torch.save(torch.load(OLD, map_location='cpu'), NEW) writes the "
    "present format; load only files that you trust that way"
)
_ZIP = b"PK\x03\x04"
LEGACY_MARK = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""Begins the files that PyTorch wrote before 1.6, see `torch_legacy`."""
_STRANGERS = {
    b"version https://git-lfs": "is a pointer of Git LFS; fetch the file itself (git lfs pull)",
    b"<": "looks like a web page; fetch the file itself",
    b"\x80": "is a pickle without tensors' records, which is refused",
}


class ArchiveError(ValueError):
    """The archive is damaged or of another kind."""


class Archive:
    """Records of the mapped file, by name without the folder that holds them all."""

    def __init__(self, path: pathlib.Path):
        with path.open("rb") as file:
            start = file.read(max(map(len, _STRANGERS)))
            if not start.startswith(_ZIP):
                file.seek(257)
                raise ArchiveError(_stranger(start, tar=file.read(5) == b"ustar"))
            try:
                with zipfile.ZipFile(file) as archive:
                    entries, end = archive.infolist(), archive.start_dir
            except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error):
                raise ArchiveError("it is cut short or damaged; fetch it again") from None
            self._mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self._spans: dict[str, tuple[int, int]] = {}
        self._checksums: dict[str, int] = {}
        self._read_entries(sorted(entries, key=lambda entry: entry.header_offset), end)
        self._root = self._find_root()
        order = bytes(self.record("byteorder")) if self.has("byteorder") else b"little"
        if order.strip() != b"little":
            raise ArchiveError(f"its byte order is {order[:20]!r}, not little; {_ADVICE}")

    def _read_entries(self, entries: Sequence[zipfile.ZipInfo], end: int) -> None:
        if any(re.fullmatch(r"[^/]*/constants\.pkl", entry.filename) for entry in entries):
            raise ArchiveError(
                "it is a TorchScript program; save the model's state_dict() with torch.save"
            )
        limits = [*(entry.header_offset for entry in entries[1:]), end]
        for entry, limit in zip(entries, limits, strict=True):
            name = entry.filename
            if name in self._spans:
                raise ArchiveError(f"it holds the record {name} twice")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise ArchiveError(
                    f"its record {name} is compressed or encrypted, as PyTorch writes none; "
                    "unpack the archive and write it again with PyTorch"
                )
            start = self._data_start(entry)
            fits = 0 <= start <= start + entry.file_size <= limit <= len(self._mapped)
            if not fits or entry.compress_size != entry.file_size:
                raise ArchiveError(
                    f"its record {name} of {entry.file_size} bytes does not fit where it lies; "
                    "fetch the file again"
                )
            self._spans[name] = start, entry.file_size
            self._checksums[name] = entry.CRC

    def _data_start(self, entry: zipfile.ZipInfo) -> int:
        # The directory at the end does not tell how long the padding of this header is.
        header = bytes(self._mapped[entry.header_offset : entry.header_offset + 30])
        if len(header) < 30 or not header.startswith(_ZIP):
            raise ArchiveError(f"its record {entry.filename} is damaged; fetch the file again")
        name_length, extra_length = struct.unpack("<HH", header[26:])
        return entry.header_offset + 30 + name_length + extra_length

    def _find_root(self) -> str:
        names = [name for name in self._spans if re.fullmatch(r"[^/]*/data\.pkl", name)]
        if len(names) != 1:
            raise ArchiveError(
                f"it is a zip archive with {len(names)} records called FOLDER/data.pkl in place "
                "of one, so no file of torch.save"
            )
        return names[0].removesuffix("data.pkl")

    def has(self, name: str) -> bool:
        """Whether there is a record of this name."""
        return self._root + name in self._spans

    def record(self, name: str) -> memoryview:
        """The bytes of a record."""
        if not self.has(name):
            raise ArchiveError(f"it lacks the record {name} that its tensors are views of")
        start, size = self._spans[self._root + name]
        return self._mapped[start : start + size]

    def content(self, name: str) -> bytes:
        """A record that must be undamaged."""
        content = bytes(self.record(name))
        if self._differs(self._root + name, content):
            raise ArchiveError(f"its record {name} is damaged; fetch the file again")
        return content

    def _differs(self, name: str, content: bytes | memoryview) -> bool:
        # Zero stands for a checksum that was not computed, which PyTorch offers to save time.
        return self._checksums[name] not in (0, zlib.crc32(content))

    def damaged(self) -> list[str]:
        """Names of the records whose checksum is not that of their content."""
        spans = {name: self._mapped[a : a + size] for name, (a, size) in self._spans.items()}
        return [name for name, content in spans.items() if self._differs(name, content)]


def _stranger(start: bytes, *, tar: bool) -> str:
    if tar:
        return f"it has the format of PyTorch before 0.1.10; {_ADVICE}"
    for mark, what in _STRANGERS.items():
        if start.startswith(mark):
            return f"it {what}"
    return "it is no file of torch.save; if it is of another format, name it accordingly"
