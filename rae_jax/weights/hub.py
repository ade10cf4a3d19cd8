"""Finds the folder of a published model: on disk, in the package, or on the Hugging Face hub."""

import importlib.resources
import pathlib
import re
from collections.abc import Sequence

BUILTIN = "builtin:"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(name: str, files: Sequence[str]) -> pathlib.Path:
    """The local folder that `name` stands for.

    Args:
        name: A folder, a hub repository "owner/name", or "builtin:NAME" for one in the package.
        files: Glob patterns of the files wanted, which are all that is downloaded.

    Raises:
        FileNotFoundError: If there is no such folder, or the hub cannot be reached and has not
            been before; the message says what to download and where to put it.
    """
    if name.startswith(BUILTIN):
        return _builtin(name.removeprefix(BUILTIN))
    folder = pathlib.Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not _REPOSITORY.fullmatch(name) or name.startswith((".", "~")):
        raise FileNotFoundError(
            f"{name!r} is neither a folder, nor a hub repository 'owner/name', nor "
            f"'{BUILTIN}NAME' with one of {_builtin_names()}"
        )
    return _download(name, files)


def _assets() -> pathlib.Path:
    return pathlib.Path(str(importlib.resources.files("rae_jax"))) / "assets"


def _builtin_names() -> list[str]:
    return sorted(path.name for path in _assets().glob("*") if path.is_dir())


def _builtin(name: str) -> pathlib.Path:
    names = _builtin_names()
    if name not in names:
        raise FileNotFoundError(f"no built-in model {name!r}; there are {names}")
    return _assets() / name


def _download(repository: str, files: Sequence[str]) -> pathlib.Path:
    # Imported here because it takes long and only this branch needs it.
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return pathlib.Path(huggingface_hub.snapshot_download(repository, allow_patterns=[*files]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{repository} could not be fetched ({type(error).__name__}). Download "
            f"{', '.join(files)} from https://huggingface.co/{repository} into a folder and give "
            "that folder's path instead of the name"
        ) from error
