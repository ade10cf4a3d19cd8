"""Beside the shards of ArrayRecord in a folder, the manifest that names them."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

M = TypeVar("M")

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records.

    Attributes:
        name: File name.
        records: How many records it holds.
        size: Its bytes.
        sha256: Their checksum.
    """

    name: str
    records: int
    size: int
    sha256: str


def dumps(manifest: Any, kind: str) -> str:
    """The text of `manifest.json`: a dataclass and the name of its format."""
    return json.dumps({"format": kind, **dataclasses.asdict(manifest)}, indent=1) + "\n"


def read(
    folder: str | os.PathLike[str],
    kind: str,
    make: Callable[..., M],
    *,
    lists: Sequence[str],
    remedy: str,
) -> M:
    """What `dumps` has written of a dataclass.

    Args:
        folder: With the manifest.
        kind: Name of the format it must have.
        make: The dataclass, with `shards`.
        lists: Its other fields that are tuples.
        remedy: What to do where there is no manifest, or none that can be used.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is of another format, or damaged.
    """
    path = pathlib.Path(folder) / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no {MANIFEST} in {os.fspath(folder)}; {remedy}, or let it finish"
        ) from None
    try:
        content = json.loads(text)
        if content.pop("format") != kind:
            raise ValueError(f"its format must be {kind!r}")
        content["shards"] = tuple(Shard(**shard) for shard in content["shards"])
        for name in lists:
            content[name] = tuple(content[name])
        return make(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be used ({error}); {remedy} again") from error
