"""Packs images into ArrayRecord shards (`records`), in parallel, and goes on after a kill.

A shard gets its name when it is complete and what was written has been read back; a note of its
checksum follows. A second call verifies every shard that has a note, and packs what is missing or
damaged. The manifest, without which nobody reads the folder, comes last.
"""

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import numpy as np

from rae_jax.data import transforms
from rae_jax.data.decoding import UnreadableImageError, decode
from rae_jax.data.manifests import MANIFEST, Shard
from rae_jax.data.records import FORMAT, Manifest, pack_file, pack_pixels
from rae_jax.data.shards import checksum, write_shard
from rae_jax.data.sources.digits import Digits
from rae_jax.data.sources.image_folder import ImageFolder
from rae_jax.files import local_path, replacing

NOTES = "packing"
"""Folder of what is needed to go on."""

_BUILTIN = "builtin:digits/"
_DIGITS_SIDE = 48  # What the bundled encoder takes.

Item = tuple[str, int, str | np.ndarray]
"""Name of an image, label, and its file or pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """What is done to images before they are packed; by default they stay the files they are.

    Attributes:
        center_crop: Side of the square that is cropped from the middle; 0 for none.
        shorter_side: Length that the shorter side is resized to; 0 for none.
    """

    center_crop: int = 0
    shorter_side: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that cannot be, and for both of them."""
        for name, size in dataclasses.asdict(self).items():
            if size < 0:
                raise ValueError(f"{name} must be at least 0, got {size}")
        if self.center_crop and self.shorter_side:
            raise ValueError("center_crop and shorter_side exclude each other; set one of them")

    @property
    def note(self) -> str:
        """For the manifest: "files", "center crop 256" or "shorter side 384"."""
        if self.center_crop:
            return f"center crop {self.center_crop}"
        return f"shorter side {self.shorter_side}" if self.shorter_side else "files"

    def record(self, image: np.ndarray | bytes, label: int, name: str) -> bytes:
        """The record of an image, given as a file or pixels.

        Raises:
            UnreadableImageError: It cannot be decoded.
        """
        pixels = decode(image, name) if isinstance(image, bytes) else image
        if self.center_crop:
            pixels = transforms.center_crop(pixels, self.center_crop)
        elif self.shorter_side:
            pixels = transforms.resize_shorter_side(pixels, self.shorter_side)
        elif isinstance(image, bytes):
            return pack_file(image, label, name)
        return pack_pixels(pixels, label, name)


@dataclasses.dataclass(frozen=True)
class _Part:
    """Images that become one shard.

    Attributes:
        path: Of the shard.
        note: Of the file that says it is complete.
        items: The images.
        preparation: What is done to them.
        max_unreadable: How many may be left out.
    """

    path: pathlib.Path
    note: pathlib.Path
    items: Sequence[Item]
    preparation: Preparation
    max_unreadable: int


def pack(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    preparation: Preparation,
    images_per_shard: int = 10_000,
    num_workers: int | None = None,
    max_unreadable: int = 0,
    advance: Callable[[int, int], object] = lambda count, total: None,
) -> Manifest:
    """Packs images in their order, or goes on, or verifies what is finished.

    Args:
        source: Folder of images, as of `ImageFolder`; or "builtin:digits/train" or ".../test".
        output: Folder of the shards.
        preparation: What is done to the images.
        images_per_shard: Images in every shard but the last.
        num_workers: Processes that pack; by default one per core; 0 packs in this one.
        max_unreadable: So many files that are no readable images are left out and noted.
        advance: Is told how many more images are packed, and how many there are.

    Raises:
        UnreadableImageError: One more image cannot be read.
        FileNotFoundError: There is no such source.
        ValueError: The output holds other images or something else, or an argument cannot be.
    """
    if images_per_shard < 1:
        raise ValueError(f"images_per_shard must be at least 1, got {images_per_shard}")
    output = local_path(output, "packed images")
    items, classes = _listed(source)
    plan = {
        "format": FORMAT,
        "preparation": preparation.note,
        "images": len(items),
        "images_per_shard": images_per_shard,
        "names_and_labels": _digest(f"{name}\t{label}".encode() for name, label, _ in items),
    }
    _begin(output, plan)
    count = -(-len(items) // images_per_shard)
    parts = [
        _Part(
            output / f"images-{number:05d}-of-{count:05d}.array_record",
            output / NOTES / f"{number:05d}.json",
            items[number * images_per_shard : (number + 1) * images_per_shard],
            preparation,
            max_unreadable,
        )
        for number in range(count)
    ]
    unreadable: list[str] = []
    for part, left_out in _packed(parts, num_workers):
        unreadable += left_out
        if len(unreadable) > max_unreadable:
            raise UnreadableImageError(_too_many(unreadable[-1], max_unreadable))
        advance(len(part.items), len(items))
    notes = [json.loads(part.note.read_text(encoding="utf-8")) for part in parts]
    manifest = Manifest(
        classes=classes,
        preparation=preparation.note,
        unreadable=tuple(message for note in notes for message in note["unreadable"]),
        shards=tuple(Shard(**note["shard"]) for note in notes if note["shard"]["records"]),
    )
    with replacing(output / MANIFEST) as partial:
        partial.write_text(manifest.dumps(), encoding="utf-8")
    return manifest


def _listed(source: str | os.PathLike[str]) -> tuple[list[Item], tuple[str, ...]]:
    """All images and the names of their classes."""
    name = os.fspath(source)
    if name.startswith(_BUILTIN):
        digits = Digits(name.removeprefix(_BUILTIN), image_size=_DIGITS_SIDE)
        records = [digits[number] for number in range(len(digits))]
        return [(f"{r['index']:04d}", int(r["label"]), r["image"]) for r in records], digits.classes
    folder = ImageFolder(name)
    paths = [folder.path(number) for number in range(len(folder))]
    labels = [int(label) for label in folder.labels]
    items: list[Item] = [
        (os.path.relpath(path, name), label, path)
        for path, label in zip(paths, labels, strict=True)
    ]
    return items, folder.classes


def _digest(lines: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line + b"\n")
    return digest.hexdigest()


def _begin(output: pathlib.Path, plan: dict[str, Any]) -> None:
    """Notes the plan in `output`, or checks that it is the one noted there."""
    path = output / NOTES / "plan.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in plan if plan[key] != before.get(key)]
        if changed:
            differences = ", ".join(
                f"{k} {before.get(k)!r} there, {plan[k]!r} now" for k in changed
            )
            raise ValueError(
                f"{output} was begun with other images or settings ({differences}); set them "
                "back, or use another --output"
            )
    elif output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty, and no packing was begun in it; name another")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    for leftover in output.glob("*.partial"):
        leftover.unlink(missing_ok=True)


def _packed(
    parts: Sequence[_Part], num_workers: int | None
) -> Iterator[tuple[_Part, Sequence[str]]]:
    """Parts as they get ready, each with the messages of images that were left out."""
    if num_workers == 0:
        for part in parts:
            yield part, _ensure(part)
        return
    # Forked processes would inherit the locks of this one's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        pending = {pool.submit(_ensure, part): part for part in parts}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _ensure(part: _Part) -> Sequence[str]:
    """Packs a part, unless its shard is there and has the checksum noted; gives who is left out."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        note = json.loads(part.note.read_text(encoding="utf-8"))
        shard = Shard(**note["shard"])
        if not shard.records or checksum(part.path) == shard.sha256:
            return note["unreadable"]
    unreadable: list[str] = []
    shard = write_shard(part.path, _records(part, unreadable))
    with replacing(part.note) as file:
        note = {"shard": dataclasses.asdict(shard), "unreadable": unreadable}
        file.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    return unreadable


def _records(part: _Part, unreadable: list[str]) -> Iterator[bytes]:
    """Records of the images; takes the messages of those that are left out into a list."""
    for name, label, image in part.items:
        content = pathlib.Path(image).read_bytes() if isinstance(image, str) else image
        try:
            yield part.preparation.record(content, label, name)
        except UnreadableImageError as error:
            unreadable.append(str(error))
            if len(unreadable) > part.max_unreadable:
                raise UnreadableImageError(_too_many(str(error), part.max_unreadable)) from error


def _too_many(message: str, limit: int) -> str:
    return (
        f"{message}; that is one more than the {limit} that may be left out: remove it, or raise "
        "--max_unreadable"
    )
