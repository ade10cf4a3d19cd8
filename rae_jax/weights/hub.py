"""Finds the folder of a published model: on disk, in the package, or on the Hugging Face hub."""

import difflib
import importlib.resources
import pathlib
import re
from collections.abc import Sequence

from rae_jax.files import local_path
from rae_jax.weights.published import REPOSITORIES

BUILTIN = "builtin:"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(name: str, files: Sequence[str], *, revision: str | None = None) -> pathlib.Path:
    """The local folder that `name` stands for.

    Downloads go through the cache of huggingface_hub, with its settings: HF_HOME, HF_TOKEN,
    HF_HUB_OFFLINE and the others.

    Args:
        name: A folder, a hub repository "owner/name", or "builtin:NAME" for one in the package.
        files: Glob patterns of the files wanted, which are all that is downloaded.
        revision: Branch, tag or commit on the hub; None is its main branch.

    Raises:
        FileNotFoundError: If there is no such folder or repository, or the hub cannot be reached
            and has not been before; the message says what to download and where to put it.
        ValueError: A revision of what is not on the hub.
    """
    if name.startswith(BUILTIN):
        _require_no_revision(name, revision)
        return _builtin(name.removeprefix(BUILTIN))
    folder = local_path(name, "a model's folder").expanduser()
    if folder.is_dir():
        _require_no_revision(name, revision)
        return folder
    if not _REPOSITORY.fullmatch(name) or name.startswith((".", "~")):
        raise FileNotFoundError(
            f"{name!r} is neither a folder, nor a hub repository 'owner/name', nor "
            f"'{BUILTIN}NAME' with one of {_builtin_names()}"
        )
    return _download(name, files, revision)


def _require_no_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise ValueError(f"{name} is not on the hub, so it has no revision {revision!r}")


def _assets() -> pathlib.Path:
    return pathlib.Path(str(importlib.resources.files("rae_jax"))) / "assets"


def _builtin_names() -> list[str]:
    return sorted(path.name for path in _assets().glob("*") if path.is_dir())


def _builtin(name: str) -> pathlib.Path:
    names = _builtin_names()
    if name not in names:
        raise FileNotFoundError(f"no built-in model {name!r}; there are {names}")
    return _assets() / name


def _download(repository: str, files: Sequence[str], revision: str | None) -> pathlib.Path:
    # Imported here because it takes long and only this branch needs it.
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=[*files]
            )
        )
    except errors.GatedRepoError as error:
        reason = "access to it must be asked for on its page; then set HF_TOKEN"
        raise FileNotFoundError(f"{repository} is gated: {reason}") from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repository} has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"there is no {repository} on the hub, or it is private and HF_TOKEN does not open "
            f"it{_advice(repository)}"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        page = f"https://huggingface.co/{repository}"
        where = page if revision is None else f"{page}/tree/{revision}"
        raise FileNotFoundError(
            f"{repository} could not be fetched ({type(error).__name__}){_advice(repository)}. "
            f"Download {', '.join(files)} from {where} into a folder and give that folder's path "
            "instead of the name"
        ) from error


def _advice(repository: str) -> str:
    near = difflib.get_close_matches(repository, REPOSITORIES, n=1, cutoff=0.8)
    return f" (did you mean {near[0]}?)" if near and near[0] != repository else ""
