"""Files that appear under their name only when they are complete."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a name beside `path` to write to, which takes its place if the block ends well.

    The folder is made if need be. The file gets the permissions that the user's other new files
    have; if the block fails, what it wrote is removed and an older file stays as it was.
    """
    path = pathlib.Path(path)
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
def new_folder(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives an empty folder beside `path` to fill, which takes its place if the block ends well.

    If the block fails, the folder and what is in it are removed.

    Raises:
        FileExistsError: There is something at `path`.
    """
    path = pathlib.Path(path)
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
    """Raises FileExistsError if there is a file or folder at `path`."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path} is there already; name another, or remove it")
