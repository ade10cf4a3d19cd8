"""Paths, local or in a bucket, and files that appear under their name only when complete."""

import contextlib
import functools
import importlib.util
import io
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

AnyPath = pathlib.Path | epath.Path
"""What `any_path` gives; both have the methods of pathlib, though not all that open files."""

WORK_FOLDER = "the work folder of this job"
"""For `local_path`: what cannot be in a bucket where a job writes files piece by piece."""

_REMOTE = "gs://"
_SCHEME = re.compile(r"([a-z][a-z0-9]+):/")
_SECONDS = 10.0
"""Least time between two versions of one object that grows; stores allow one a second."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether the path is in a bucket of Google Cloud Storage, `gs://bucket/...`.

    Raises:
        ValueError: It is the address of something else.
    """
    text = os.fspath(path)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return False
    if not re.match(r"gs://[^/]", text):
        raise ValueError(
            f"a path must be a local one or gs://bucket/..., got {text!r}"
            + (" (pathlib.Path drops a slash: pass text)" if scheme[1] == "gs" else "")
        )
    return True


def any_path(path: str | os.PathLike[str]) -> AnyPath:
    """The path of a local file or folder, or of one in a bucket, which is looked for first.

    Raises:
        ValueError: It is the address of something else, or a package for buckets is missing.
        OSError: There is no such bucket, or no access to it.
    """
    if not is_remote(path):
        return pathlib.Path(path)
    _require_bucket(os.fspath(path).removeprefix(_REMOTE).split("/")[0])
    return epath.Path(path)


def absolute(path: str | os.PathLike[str]) -> AnyPath:
    """The same as an absolute path, which is what those in buckets are anyhow."""
    located = any_path(path)
    return located.absolute() if isinstance(located, pathlib.Path) else located


def local_path(path: str | os.PathLike[str], what: str) -> pathlib.Path:
    """The path of a local file or folder.

    Args:
        path: As the user has named it.
        what: Begins the message about one that is not.

    Raises:
        ValueError: It is in a bucket or another address.
    """
    if is_remote(path):
        raise ValueError(
            f"{what} must be on a local file system, got {os.fspath(path)}; copy it from or to the "
            "bucket, or mount the bucket"
        )
    return pathlib.Path(path)


def remove_folder(path: AnyPath) -> None:
    """Removes a folder and what is in it, as far as that goes."""
    if isinstance(path, pathlib.Path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.rmtree(missing_ok=True)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a local name to write to, which takes the place of `path` if the block ends well.

    The name is beside `path` and its folder is made if need be; for a path in a bucket, where
    objects appear whole, it is a temporary one and uploaded in the end. The file gets the
    permissions that the user's other new files have; if the block fails, what it wrote is removed
    and an older file stays as it was.
    """
    located = any_path(path)
    if not isinstance(located, pathlib.Path):
        with tempfile.TemporaryDirectory(prefix="rae_jax.") as folder:
            partial = pathlib.Path(folder) / located.name
            partial.touch()
            yield partial
            _upload(partial, located)
        return
    path = located
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch()
    permissions = partial.stat().st_mode
    try:
        yield partial
        # Some writers, that of safetensors among them, make files only their owner can read.
        if partial.stat().st_mode != permissions:
            partial.chmod(permissions)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def local_copy(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a local name of the file: its own, or that of a temporary copy out of a bucket.

    Raises:
        FileNotFoundError: There is no such file in the bucket.
    """
    located = any_path(path)
    if isinstance(located, pathlib.Path):
        yield located
        return
    with tempfile.TemporaryDirectory(prefix="rae_jax.") as folder:
        copy = pathlib.Path(folder) / located.name
        _bucket_files().get_file(os.fspath(located), str(copy))
        yield copy


def open_to_append(path: AnyPath) -> io.TextIOBase:
    """Opens a text file to add lines to; its folder must be there.

    Nothing can be added to an object in a bucket, so it is written anew with `flush`, though at
    most every ten seconds: a job that is killed loses what it has added since.
    """
    if isinstance(path, pathlib.Path):
        return path.open("a", encoding="utf-8")
    return _Growing(path)


class _Growing(io.StringIO):
    """The whole text of an object, in memory."""

    def __init__(self, path: epath.Path):
        super().__init__()
        self._path = path
        self._uploaded = -_SECONDS
        if path.exists():
            self.write(path.read_text())

    def flush(self) -> None:
        if not self.closed and time.monotonic() - self._uploaded >= _SECONDS:
            self._upload()

    def close(self) -> None:
        if not self.closed:
            self._upload()
        super().close()

    def _upload(self) -> None:
        with replacing(self._path) as partial:
            partial.write_text(self.getvalue(), encoding="utf-8")
        self._uploaded = time.monotonic()


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives an empty folder beside `path` to fill, which takes its place if the block ends well.

    If the block fails, the folder and what is in it are removed.

    Raises:
        FileExistsError: There is something at `path`.
        ValueError: `path` is in a bucket.
    """
    path = local_path(path, "a folder to write")
    require_absent(path)
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_absent(path: str | os.PathLike[str]) -> None:
    """Raises FileExistsError if there is a file or folder at `path`, which must be a local one."""
    if os.path.lexists(local_path(path, "what is written")):
        raise FileExistsError(f"{path} is there already; name another, or remove it")


def _upload(file: pathlib.Path, path: epath.Path) -> None:
    # Closing an object that is written to completes it, even if an error has cut it short; this
    # completes it only at its end.
    _bucket_files().put_file(str(file), os.fspath(path))


@functools.cache
def _bucket_files() -> Any:
    """Access to the files in buckets, the same object that `epath` uses."""
    import fsspec
    from fsspec.config import conf

    # Lists that are kept would lack what other processes, and TensorStore in this one, write.
    conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    # Where TensorFlow is installed epath would go through it.
    os.environ.setdefault("EPATH_USE_TF", "false")
    return fsspec.filesystem("gcs", finalize_on_close=True)


@functools.cache
def _require_bucket(name: str) -> None:
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(
            f"{_REMOTE}{name} needs a package that is missing; run `pip install gcsfs`, or install "
            "rae_jax with the extra `gcs`"
        )
    try:
        _bucket_files().ls(name)
    except Exception as error:
        # gcsfs and the libraries beneath raise many types.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise OSError(
            f"the bucket {_REMOTE}{name} cannot be listed ({reason}); look at its name and at the "
            "credentials (`gcloud auth application-default login`)"
        ) from error
