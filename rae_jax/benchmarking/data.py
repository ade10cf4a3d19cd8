"""Speed of the input pipeline: files, shards and cached latents to batches in memory.

A core's speed is taken from processor time, which says the same on a busy machine: images over the
seconds that all threads of this process computed. The best of several rounds counts, and all ways
take turns in every round.
"""

import contextlib
import dataclasses
import io
import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from rae_jax.benchmarking.report import Row
from rae_jax.benchmarking.sides import load
from rae_jax.data import extras, packing, pipeline, transforms
from rae_jax.data.latents import LatentManifest
from rae_jax.data.manifests import MANIFEST
from rae_jax.data.shards import write_shard
from rae_jax.data.sources.array_record import ArrayRecords
from rae_jax.data.sources.base import Record, Source
from rae_jax.data.sources.cached_latents import CachedLatents, KeepPlace, ReadMirrored
from rae_jax.data.sources.image_folder import ImageFolder

_SIZES = ((500, 375), (375, 500), (500, 333), (500, 400))
_LATENT_SHAPE = (16, 16, 768)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        folder: Image folder; "" makes photographs of ImageNet's usual sizes.
        peers: Modules or Python files with another loader to compare with, `batches`.
        images: Images per measurement, and how many are made.
        rounds: Measurements of each way.
        threads: Threads of ours, and workers of the peer, besides one.
        image_size: Side of the crops.
        batch_size: Images per batch.
    """

    folder: str = ""
    peers: tuple[str, ...] = ()
    images: int = 512
    rounds: int = 3
    threads: int = 2
    image_size: int = 256
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Raises ValueError for numbers below one, and for fewer images than a batch has."""
        for name in ("images", "rounds", "threads", "image_size", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class _Way:
    """One way to get batches.

    Attributes:
        name: What is read, and by whom.
        threads: How many prepare batches; 0 for the calling one alone.
        start: Gives endless batches.
        around: Is entered while they are taken.
    """

    name: str
    threads: int
    start: Callable[[], Iterator[Any]]
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


def measure(settings: Settings) -> list[Row]:
    """Speed of every way, one row each.

    Raises:
        FileNotFoundError: The folder or a peer's file does not exist.
        ValueError: The folder holds no images, or a peer cannot be loaded.
    """
    peers = [load(name) for name in settings.peers]
    with tempfile.TemporaryDirectory(prefix="benchmark.") as scratch:
        place = pathlib.Path(scratch)
        folder = settings.folder or _photographs(place / "images", settings.images)
        ways = _ways(settings, str(folder), place, peers)
        best: dict[str, tuple[float, float]] = {}
        for _, way in itertools.product(range(settings.rounds), ways):
            elapsed, computed = _timed(way, settings)
            before = best.get(way.name, (np.inf, np.inf))
            best[way.name] = min(before[0], elapsed), min(before[1], computed)
    return [_row(way, *best[way.name]) for way in ways]


def _row(way: _Way, elapsed: float, computed: float) -> Row:
    return {
        "way": way.name,
        "threads": way.threads,
        "images/s": 1 / elapsed,
        # Workers of a peer compute in processes of their own, whose time is not ours.
        "images/s per core": 1 / computed if np.isfinite(computed) else None,
    }


def _timed(way: _Way, settings: Settings) -> tuple[float, float]:
    """Seconds, and seconds of this process's threads, per image."""
    num_batches = max(settings.images // settings.batch_size, 1)
    with way.around(), contextlib.closing(_closable(way.start())) as batches:
        for _ in range(2 * max(way.threads, 1)):
            next(batches)
        start, computed = time.perf_counter(), time.process_time()
        for _ in range(num_batches):
            next(batches)
        elapsed = time.perf_counter() - start
        computed = time.process_time() - computed
    count = num_batches * settings.batch_size
    outside = way.threads and way.name.startswith("peer")
    return elapsed / count, np.inf if outside else computed / count


def _closable(batches: Iterator[Any]) -> Any:
    def each() -> Iterator[Any]:
        yield from batches

    return each()


def _ways(
    settings: Settings, folder: str, place: pathlib.Path, peers: Sequence[ModuleType]
) -> list[_Way]:
    size = settings.image_size
    crop, flip = transforms.CenterCrop(size), transforms.RandomFlip()
    ready = transforms.RequireSize(size)
    files, pixels, latents = place / "files", place / "pixels", place / "latents"
    packing.pack(folder, files, preparation=packing.Preparation(), num_workers=0)
    cropped = packing.Preparation(center_crop=size)
    packing.pack(folder, pixels, preparation=cropped, num_workers=0)
    _write_latents(latents, settings.images)

    def stream(source: Source, steps: tuple[Any, ...], threads: int) -> Callable[[], Iterator[Any]]:
        return lambda: pipeline.batches(
            _Repeated(source),
            seed=0,
            global_batch_size=settings.batch_size,
            transforms=steps,
            loading=pipeline.Loading(num_threads=threads),
        )

    ways = []
    for threads in (0, settings.threads):
        images = stream(ImageFolder(folder), (crop, flip), threads)
        note = f", {threads} threads" if threads else ""
        ways += [
            _Way(
                f"peer ({peer.VERSION}): image folder{note}",
                threads,
                _peer(peer, folder, settings, threads),
            )
            for peer in peers
        ]
        ways += [
            _Way(f"image folder, PIL alone{note}", threads, images, extras.left_out),
            _Way(f"image folder{note}", threads, images),
            _Way(
                f"ArrayRecord of files{note}",
                threads,
                stream(ArrayRecords(files), (crop, flip), threads),
            ),
            _Way(
                f"ArrayRecord of cropped pixels{note}",
                threads,
                stream(ArrayRecords(pixels), (ready, flip), threads),
            ),
            _Way(
                f"cached latents {'x'.join(map(str, _LATENT_SHAPE))}, bfloat16{note}",
                threads,
                stream(CachedLatents(latents), (KeepPlace(), ReadMirrored()), threads),
            ),
        ]
    return ways


class _Repeated:
    """As many records as ImageNet has: the order of a few takes Grain longer to find."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return 1_281_167

    def __getitem__(self, index: int) -> Record:
        return self._source[index % len(self._source)]

    def __repr__(self) -> str:
        return f"{self._source!r}, repeated"


def _peer(
    peer: ModuleType, folder: str, settings: Settings, workers: int
) -> Callable[[], Iterator[Any]]:
    return lambda: peer.batches(
        folder,
        image_size=settings.image_size,
        batch_size=settings.batch_size,
        workers=workers,
    )


def _photographs(folder: pathlib.Path, count: int) -> pathlib.Path:
    """JPEG files like photographs in sizes and, nearly, in bytes."""
    (folder / "photographs").mkdir(parents=True)
    for number in range(count):
        width, height = _SIZES[number % len(_SIZES)]
        stream = io.BytesIO()
        photograph(number, width, height).save(stream, "jpeg", quality=90)
        (folder / "photographs" / f"{number:06d}.jpg").write_bytes(stream.getvalue())
    return folder


def photograph(seed: int, width: int, height: int) -> Image.Image:
    """Noise that is correlated over all distances, as the grey levels of photographs are."""
    rng = np.random.default_rng(seed)
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequencies[0, 0] = 1 / max(width, height)
    grey = rng.standard_normal((height, width))
    channels = []
    for _ in range(3):
        noise = 0.8 * grey + 0.4 * rng.standard_normal((height, width))
        channel = np.fft.ifft2(np.fft.fft2(noise) / frequencies**1.1).real
        channels.append((channel - channel.mean()) / channel.std())
    pixels = np.clip(128 + 50 * np.stack(channels, axis=-1), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _write_latents(folder: pathlib.Path, count: int) -> None:
    """A folder like that of `tools/cache_latents.py`, of random numbers."""
    folder.mkdir()
    manifest = LatentManifest(
        classes=(),
        num_images=count,
        latent_shape=_LATENT_SHAPE,
        dtype="bfloat16",
        random=False,
        mirrored=True,
        images={},
        encoder={},
        fingerprints={},
    )
    latents = np.random.default_rng(0).standard_normal((64, *_LATENT_SHAPE), np.float32)
    records = (manifest.pack(0, latents[number % len(latents)]) for number in range(2 * count))
    shard = write_shard(folder / "latents.array_record", records)
    text = dataclasses.replace(manifest, shards=(shard,)).dumps()
    (folder / MANIFEST).write_text(text, encoding="utf-8")
