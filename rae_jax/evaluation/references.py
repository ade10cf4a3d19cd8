"""Statistics of sets of images: what scores are computed from, in memory and as files.

Three kinds of npz are read: ours; those of the ADM suite and of pytorch-fid with `mu` and `sigma`
(and `mu_s`, `sigma_s`); and images alone as `arr_0`.
"""

import dataclasses
import os
import pathlib
import zipfile
import zlib

import jax
import numpy as np

from rae_jax.configuration.schema import ImagesConfig
from rae_jax.evaluation.features import INCEPTION, Extractor, Features
from rae_jax.evaluation.frechet import Moments, StreamingMoments
from rae_jax.evaluation.images import ARRAY, ImageSet, from_npz, kind_of, npz_keys, open_set
from rae_jax.files import local_path, replacing
from rae_jax.monitoring.progress import progress_bar
from rae_jax.sharding.processes import from_all, ordered_rows
from rae_jax.typing import Int, UInt8

STATISTICS, STATISTICS_FILE = "reference statistics", "reference_statistics.npz"
"""Kind of a work folder of `tools/compute_reference_statistics.py`, and its file."""

GENERATION, RECONSTRUCTION = "generation", "reconstruction"
"""Purposes of a reference: gFID compares with training images, rFID with the originals."""


@dataclasses.dataclass(frozen=True, eq=False)
class SetStatistics:
    """What is known of a set of images.

    Attributes:
        name: Where the images are from.
        extractor: Label of the network.
        moments: Of its features.
        spatial: Moments of its spatial features; None if it has none, or the file not.
        features: The features themselves, in the order of the images; None if they are not kept.
        count: How many images the moments are of; 0 if the file does not tell.
        image_size: Height and width; None if the file does not tell.
        purpose: "generation" or "reconstruction"; "" if not noted.
        notes: What a reader of scores must know of the images.
    """

    name: str
    extractor: str
    moments: Moments
    spatial: Moments | None = None
    features: Features | None = None
    count: int = 0
    image_size: tuple[int, int] | None = None
    purpose: str = ""
    notes: tuple[str, ...] = ()

    @property
    def _keys(self) -> tuple[str, str]:
        # Other tools read the first pair as that of FID.
        return ("mu", "sigma") if self.extractor == INCEPTION else ("mean", "covariance")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an npz that is complete or not there.

        It holds the moments as `mu`, `sigma`, `mu_s`, `sigma_s`, as the ADM suite and pytorch-fid
        read them (of other networks than FID's as `mean` and `covariance`), `features` and
        `logits` if they are kept, and `extractor`, `count`, `image_size`, `purpose`, `source`,
        `notes`.

        Raises:
            ValueError: The path does not end in ".npz".
        """
        path = pathlib.Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"the file name must end in .npz, got {path.name!r}")
        arrays = dict(zip(self._keys, (self.moments.mean, self.moments.covariance), strict=True))
        if self.spatial is not None:
            arrays |= {"mu_s": self.spatial.mean, "sigma_s": self.spatial.covariance}
        if self.features is not None:
            arrays["features"] = self.features.pooled
            if self.features.logits is not None:
                arrays["logits"] = self.features.logits
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(
                file,
                **arrays,  # pyright: ignore[reportArgumentType]
                extractor=self.extractor,
                count=self.count,
                image_size=np.asarray(self.image_size or (0, 0)),
                purpose=self.purpose,
                source=self.name,
                notes=np.asarray(self.notes, np.str_),
            )


class Collector:
    """Takes in the images of a set, each process its own, and gives their statistics.

    Moments are streamed in float64. They are the same bit for bit however the images of a process
    come; over several processes they are merged, to the rounding of float64.
    """

    def __init__(self, extractor: Extractor, *, keep: bool):
        """Begins with no images.

        Args:
            extractor: Network of the features.
            keep: Whether to keep the features and logits of every image, 12 kB of Inception's.
        """
        self._extractor, self._keep = extractor, keep
        self._moments: dict[str, StreamingMoments] = {}
        self._kept: dict[str, list[np.ndarray]] = {"pooled": [], "logits": []}
        self._index: list[np.ndarray] = []
        self._image_size: tuple[int, int] | None = None

    def add(self, index: Int[np.ndarray, " n"], images: UInt8[np.ndarray, "n H W 3"]) -> None:
        """Takes in the images number `index`, of which there may be none."""
        if not len(index):
            return
        self._image_size = images.shape[1:3]
        features = self._extractor(images)
        self._index.append(index)
        for name in ("pooled", "spatial"):
            rows = getattr(features, name)
            if rows is not None:
                moments = self._moments.setdefault(name, StreamingMoments(rows.shape[1]))
                moments.add(rows)
        if self._keep:
            for name, kept in self._kept.items():
                rows = getattr(features, name)
                if rows is not None:
                    kept.append(rows)

    def statistics(
        self, name: str, notes: tuple[str, ...] = (), purpose: str = ""
    ) -> "SetStatistics":
        """Of the images of all processes.

        Raises:
            ValueError: Fewer than two images.
        """
        moments = {part: _merged(streaming) for part, streaming in self._moments.items()}
        if not moments:
            raise ValueError(f"{name}: a process has no images; use fewer processes")
        features = None
        if self._keep:
            index = np.concatenate(self._index)
            kept = {
                part: ordered_rows(index, np.concatenate(rows))
                for part, rows in self._kept.items()
                if rows
            }
            features = Features(kept["pooled"], None, kept.get("logits"))
        count, pooled = moments["pooled"]
        return SetStatistics(
            name,
            self._extractor.label,
            pooled,
            moments["spatial"][1] if "spatial" in moments else None,
            features,
            count,
            self._image_size,
            purpose,
            (*self._extractor.notes, *notes),
        )


def _merged(streaming: StreamingMoments) -> tuple[int, Moments]:
    streaming.finish()
    counts = from_all(np.asarray(streaming.count))
    means, scatters = from_all(streaming.mean), from_all(streaming.scatter)
    total = StreamingMoments(means.shape[1])
    for count, mean, scatter in zip(counts, means, scatters, strict=True):
        total.merge(int(count), mean, scatter)
    return total.count, total.moments()


def compute(
    images: ImageSet, extractor: Extractor, *, keep: bool, purpose: str = ""
) -> SetStatistics:
    """Statistics of a set of images, each process taking its share of them.

    Args:
        images: The set.
        extractor: Network of the features.
        keep: Whether to keep the features themselves.
        purpose: Noted with them.

    Raises:
        ValueError: Fewer than two images.
    """
    if images.count < max(2, jax.process_count()):
        raise ValueError(f"{images.name}: {images.count} images have no covariance; take more")
    collector = Collector(extractor, keep=keep)
    place = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    with progress_bar(images.count, description="features", unit="image") as bar:
        for index, part in images.parts(extractor.chunk, **place):
            collector.add(index, part)
            bar.update(len(index) * jax.process_count())
    return collector.statistics(images.name, images.notes, purpose)


def open_reference(
    config: ImagesConfig, extractor: Extractor, *, keep: bool
) -> tuple[SetStatistics, ImageSet | None]:
    """Statistics to score against, read or computed, and their images where those are there.

    Args:
        config: Images, or statistics as an npz or the work folder that they were computed in.
        extractor: Network of the features.
        keep: Whether features are needed; those of an ADM file are taken of its `arr_0`.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It is damaged, of another network, or of other contents.
    """
    path = _statistics_in(config.path)
    if path.suffix != ".npz" or not path.is_file():
        images = open_set(config)
        return compute(images, extractor, keep=keep), images
    keys = npz_keys(path)
    if not {"extractor", "mu"} & set(keys):
        images = from_npz(path)
        return compute(images, extractor, keep=keep), images
    statistics = load(path)
    if statistics.extractor != extractor.label:
        raise ValueError(
            f"{path} holds statistics of the network {statistics.extractor!r}, but the extractor "
            f"is {extractor.label!r}; take features of the same network, or another reference"
        )
    if statistics.features is not None or not keep or ARRAY not in keys:
        return statistics, None
    images = from_npz(path)
    computed = compute(images, extractor, keep=True)
    known = {"features": computed.features, "image_size": computed.image_size}
    return dataclasses.replace(statistics, **known), images


def _statistics_in(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path itself, or the file in a work folder of statistics."""
    folder = local_path(path, "statistics")
    if not str(path) or kind_of(folder) != STATISTICS:
        return folder
    if not (folder / STATISTICS_FILE).exists():
        raise FileNotFoundError(
            f"the statistics in {folder} are not finished; start "
            f"tools/compute_reference_statistics.py again with --workdir={folder}"
        )
    return folder / STATISTICS_FILE


def load(path: str | os.PathLike[str]) -> SetStatistics:
    """Reads what `SetStatistics.save` wrote, or a file of the ADM suite or of pytorch-fid.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is damaged, or holds something else.
    """
    path = _statistics_in(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no statistics at {path}; make them with tools/compute_reference_statistics.py"
        )
    keys = set(npz_keys(path))
    for pair in (("mu", "sigma"), ("mean", "covariance")):
        if keys >= set(pair):
            break
    else:
        raise ValueError(
            f"{path} must hold mu and sigma, it holds {', '.join(sorted(keys)) or 'nothing'}; "
            "make statistics with tools/compute_reference_statistics.py"
        )
    try:
        return _read(path, keys, pair)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); write or fetch it again") from error


def _read(path: pathlib.Path, keys: set[str], pair: tuple[str, str]) -> SetStatistics:
    with np.load(path) as arrays:
        moments = _moments(path, arrays, *pair)
        spatial = None
        if keys >= {"mu_s", "sigma_s"}:
            spatial = _moments(path, arrays, "mu_s", "sigma_s")
        if "extractor" not in keys:
            return SetStatistics(str(path), INCEPTION, moments, spatial)
        features = None
        if "features" in keys:
            logits = arrays["logits"] if "logits" in keys else None
            features = Features(arrays["features"], None, logits)
        height, width = map(int, arrays["image_size"])
        return SetStatistics(
            f"{path} ({arrays['source']})",
            str(arrays["extractor"]),
            moments,
            spatial,
            features,
            int(arrays["count"]),
            (height, width) if height else None,
            str(arrays["purpose"]),
            tuple(map(str, arrays["notes"])),
        )


def _moments(path: pathlib.Path, arrays: "np.lib.npyio.NpzFile", mean: str, matrix: str) -> Moments:
    first, second = arrays[mean].astype(np.float64), arrays[matrix].astype(np.float64)
    width = first.size
    if first.shape != (width,) or second.shape != (width, width):
        raise ValueError(
            f"{path}: {mean} and {matrix} must have the shapes [D] and [D, D], got {first.shape} "
            f"and {second.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError(f"{path}: {mean} or {matrix} holds NaN or infinite values")
    return Moments(first, second)
