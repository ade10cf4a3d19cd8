"""Reads and writes the files of `torch.save` without PyTorch.

Such a file (torch 1.6 or later) is a zip archive: `data.pkl` describes containers and tensors, and
each storage that tensors are views of is an uncompressed record. Older files are read too, see
`torch_legacy`. Reading maps the file into memory and gives views of it, so that nothing is read but
what is looked at. Files are not trusted: nothing in them is executed, and no tensor reaches beyond
its storage.
"""

import dataclasses
import functools
import math
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from rae_jax.files import local_path, replacing
from rae_jax.weights.errors import WeightFileError
from rae_jax.weights.torch_archive import Archive, ArchiveError
from rae_jax.weights.torch_legacy import LegacyFile, is_legacy
from rae_jax.weights.torch_pickle import ORDERED_DICT, Global, PickleError, read

_STORAGES: Mapping[str, Any] = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}
"""Element types by the class of their storage."""

_UNTYPED: Mapping[str, Any] = {
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
}
"""Element types that came after classes of storages were given up: named with each tensor."""

_UNTYPED_STORAGE = "torch.storage.UntypedStorage"
_LARGEST_VIEW = 2**30
"""Bytes that a tensor may have beyond the size of its file, as repeated views have."""

_ALIGNMENT, _LARGE_RECORD, _CHUNK = 64, 2**30, 2**24
_MAX_DIMENSIONS = 32


def read_torch(path: str | os.PathLike[str]) -> Any:
    """What `torch.save` has written to a file: nested containers with NumPy arrays for tensors.

    Args:
        path: The file (.pt, .pth, .bin or .ckpt).

    Returns:
        Dictionaries, lists, tuples, text, numbers, booleans and None; tensors and parameters as
        read-only arrays on the mapped file, in the layout that they were saved in. bfloat16 and
        the 8-bit floats have the dtypes of `ml_dtypes`.

    Raises:
        FileNotFoundError: There is no such file.
        WeightFileError: It is damaged, of another format, or holds anything else.
    """
    path = local_path(path, "weights")
    if not path.is_file():
        raise FileNotFoundError(f"no weight file at {path}")
    try:
        if is_legacy(path):
            return _read_legacy(path)
        archive = Archive(path)
        stored = functools.partial(_storage, archive)
        return read(archive.content("data.pkl"), _admitted(), stored, np.ndarray)
    except (PickleError, ArchiveError) as error:
        raise WeightFileError(f"{path} cannot be read: {error}") from None


def require_checksums(path: str | os.PathLike[str]) -> None:
    """Reads a file of `torch.save` from end to end and compares the checksums of its records.

    Files from before PyTorch 1.6 have none; they must be whole.

    Raises:
        FileNotFoundError: There is no such file.
        WeightFileError: A record is damaged; the message lists all that are.
    """
    if pathlib.Path(path).is_file() and is_legacy(pathlib.Path(path)):
        read_torch(path)
        return
    try:
        damaged = Archive(pathlib.Path(path)).damaged()
    except ArchiveError as error:
        raise WeightFileError(f"{path} cannot be read: {error}") from None
    if damaged:
        listed = ", ".join(damaged)
        raise WeightFileError(f"{path} is damaged in {listed}; fetch it again")


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Bytes that tensors are views of; `dtype` None if each tensor tells its own."""

    data: memoryview
    dtype: np.dtype | None


def _declared(identifier: Any) -> tuple[str, np.dtype | None, int]:
    """Key, type (None if each tensor tells its own) and length of the storage that a pickle names.

    It is named as ("storage", type, key, device, length), in old files with None at the end.
    """
    match identifier:
        case ("storage", Global() as kind, str(key), str(), int(length), *rest) if rest in (
            [],
            [None],
        ):
            pass
        case _:
            raise PickleError("a storage is not named as PyTorch does")
    if kind.name == _UNTYPED_STORAGE:
        return key, None, length
    if isinstance(kind.value, np.dtype) and kind.name.endswith("Storage"):
        return key, kind.value, length
    raise PickleError(f"{kind.name} is no type of storages")


def _storage(archive: Archive, identifier: Any) -> _Storage:
    key, dtype, length = _declared(identifier)
    size = 1 if dtype is None else dtype.itemsize
    data = archive.record(f"data/{key}")
    if len(data) != length * size:
        raise PickleError(
            f"the storage {key} must have {length * size} bytes, its record has {len(data)}"
        )
    return _Storage(data, dtype)


def _read_legacy(path: pathlib.Path) -> Any:
    file = LegacyFile(path)
    declared: dict[str, tuple[np.dtype, int]] = {}

    def declare(identifier: Any) -> _Storage:
        key, dtype, length = _declared(identifier)
        if dtype is None or declared.setdefault(key, (dtype, length)) != (dtype, length):
            raise PickleError(f"the storage {key} is not of one known type and length")
        return _Storage(memoryview(b""), dtype)

    # Where a storage lies depends on the sizes of those before it, which the content tells: it is
    # gone through once for them, and once more for the tensors.
    unseen = {
        name: Global(name, lambda *arguments: np.empty(0)) if "_rebuild" in name else known
        for name, known in _admitted().items()
    }
    read(file.content, unseen, declare, np.ndarray)
    storages = file.storages(declared)

    def stored(identifier: Any) -> _Storage:
        key, dtype, _ = _declared(identifier)
        return _Storage(storages[key], dtype)

    return read(file.content, _admitted(), stored, np.ndarray)


def _admitted() -> dict[str, Global]:
    """Everything that the pickle of a file may name."""
    known = [
        ORDERED_DICT,
        Global("torch.Size", _size),
        Global("torch._utils._rebuild_tensor", _tensor),
        Global("torch._utils._rebuild_tensor_v2", _tensor_v2),
        Global("torch._utils._rebuild_tensor_v3", _tensor_v3),
        Global("torch._utils._rebuild_parameter", _parameter),
        Global(_UNTYPED_STORAGE),
        *(Global(f"torch.{name}", value=np.dtype(code)) for name, code in _STORAGES.items()),
        *(Global(f"torch.{name}", value=np.dtype(code)) for name, code in _UNTYPED.items()),
    ]
    return {entry.name: entry for entry in known}


def _size(sizes: Any) -> tuple[int, ...]:
    return _counts(sizes, "size")


def _counts(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > _MAX_DIMENSIONS:
        raise PickleError(f"the {what} of a tensor must be at most {_MAX_DIMENSIONS} numbers")
    for value in values:
        if type(value) is not int or not 0 <= value < 2**63:
            raise PickleError(f"the {what} of a tensor must be numbers from 0 on")
    return tuple(values)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    if not isinstance(storage, _Storage) or storage.dtype is None:
        raise PickleError("a tensor is no view of a storage of known type")
    return _view(storage.data, storage.dtype, offset, size, stride)


def _tensor_v2(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    metadata: Any = None,
) -> np.ndarray:
    _require_materialised(metadata)
    return _tensor(storage, offset, size, stride)


def _tensor_v3(  # noqa: PLR0913
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> np.ndarray:
    _require_materialised(metadata)
    known = isinstance(dtype, Global) and isinstance(dtype.value, np.dtype)
    if not isinstance(storage, _Storage) or not known:
        raise PickleError("a tensor is no view of a storage of known type")
    return _view(storage.data, dtype.value, offset, size, stride)


def _require_materialised(metadata: Any) -> None:
    if metadata:
        raise PickleError(
            f"a tensor has pending operations {list(metadata)[:4]}; save tensor.resolve_conj()"
            ".resolve_neg() instead"
        )


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> np.ndarray:
    if not isinstance(data, np.ndarray):
        raise PickleError("a parameter holds no tensor")
    return data


def _view(data: memoryview, dtype: np.dtype, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """A tensor's elements, checked not to reach beyond the storage."""
    (offset,), shape = _counts([offset], "offset"), _counts(size, "size")
    strides = _counts(stride, "stride")
    if len(shape) != len(strides):
        raise PickleError(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
    elements = len(data) // dtype.itemsize
    empty = 0 in shape
    last = 0 if empty else sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if offset + last + (not empty) > elements:
        raise PickleError(
            f"a tensor of size {shape}, stride {strides} and offset {offset} reaches beyond its "
            f"storage of {elements} elements"
        )
    if math.prod(shape) * dtype.itemsize > len(data) + _LARGEST_VIEW:
        raise PickleError(f"a tensor of size {shape} repeats {elements} stored elements")
    try:
        if empty:
            return np.empty(shape, dtype)
        steps = [step * dtype.itemsize for step in strides]
        return np.ndarray(shape, dtype, data, offset * dtype.itemsize, steps)
    except ValueError as error:
        raise PickleError(f"a tensor of size {shape} cannot be made: {error}") from None


def write_torch(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Writes a file that `torch.load(path, weights_only=True)` reads; an existing one is replaced.

    Args:
        path: The file, which takes its name only when it is complete.
        content: Arrays by key, and plain values and containers of them, as `read_torch` gives
            them. Every array becomes a contiguous tensor with a storage of its own.

    Raises:
        TypeError: PyTorch has no tensors of an array's dtype, or a value is of another kind.
    """
    arrays: list[np.ndarray] = []
    pickled = b"\x80\x02" + _pickled(content, arrays) + b"."
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        _write_record(archive, "data.pkl", pickled)
        _write_record(archive, "byteorder", b"little")
        for index, array in enumerate(arrays):
            # Of its own for each, so that no more than one array is copied at a time.
            data = np.asarray(array, order="C").reshape(-1).view(np.uint8)
            _write_record(archive, f"data/{index}", data.data)
        _write_record(archive, "version", b"3\n")


def _write_record(archive: zipfile.ZipFile, name: str, content: bytes | memoryview) -> None:
    entry = zipfile.ZipInfo(f"archive/{name}")
    entry.file_size = len(content)
    large = len(content) >= _LARGE_RECORD
    # Storages begin at multiples of the alignment: the header is padded with a field of its own,
    # besides the one for the sizes of large records.
    taken = archive.start_dir + 30 + len(entry.filename) + 4 + 20 * large
    padding = -taken % _ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
    with archive.open(entry, "w", force_zip64=large) as record:
        for start in range(0, len(content), _CHUNK):
            record.write(content[start : start + _CHUNK])


def _pickled(value: Any, arrays: list[np.ndarray]) -> bytes:
    """Instructions that make `value`; its arrays are appended to `arrays`."""
    # First: NumPy's scalars pass for Python's numbers too.
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        arrays.append(np.asarray(value))
        return _pickled_tensor(arrays[-1], str(len(arrays) - 1))
    if isinstance(value, Mapping):
        return b"}(" + _joined(_pairs(value), arrays) + b"u"
    if isinstance(value, list):
        return b"](" + _joined(value, arrays) + b"e"
    if isinstance(value, tuple):
        return b"(" + _joined(value, arrays) + b"t"
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"\x8a" + _length_and_bytes(pickle.encode_long(value))
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    raise TypeError(f"files of torch.save here hold no {type(value).__name__}, got {value!r}")


def _length_and_bytes(content: bytes) -> bytes:
    return bytes([len(content)]) + content


def _pairs(mapping: Mapping[Any, Any]) -> Iterator[Any]:
    for key, value in mapping.items():
        yield key
        yield value


def _joined(values: Iterable[Any], arrays: list[np.ndarray]) -> bytes:
    return b"".join(_pickled(value, arrays) for value in values)


def _pickled_tensor(array: np.ndarray, key: str) -> bytes:
    typed = {np.dtype(code): name for name, code in _STORAGES.items()}
    untyped = {np.dtype(code): name for name, code in _UNTYPED.items()}
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    hooks = _global(ORDERED_DICT.name) + b")R"
    end = _pickled(array.shape, []) + _pickled(tuple(strides), []) + b"\x89" + hooks
    if array.dtype in typed:
        function, length = "_rebuild_tensor_v2", array.size
        storage = f"torch.{typed[array.dtype]}"
    elif array.dtype in untyped:
        function, length = "_rebuild_tensor_v3", array.nbytes
        storage = _UNTYPED_STORAGE
        end += _global(f"torch.{untyped[array.dtype]}")
    else:
        raise TypeError(f"PyTorch has no tensors of dtype {array.dtype}; convert the array first")
    identifier = b"".join(map(_pickled_plain, ("cpu", length)))
    identifier = _pickled_plain("storage") + _global(storage) + _pickled_plain(key) + identifier
    view = b"(" + b"(" + identifier + b"tQ" + _pickled_plain(0) + end + b"t"
    return _global(f"torch._utils.{function}") + view + b"R"


def _pickled_plain(value: Any) -> bytes:
    return _pickled(value, [])


def _global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()
