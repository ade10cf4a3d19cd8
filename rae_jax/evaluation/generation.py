"""Scores of generated images against real ones."""

import pathlib
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
from absl import logging

from rae_jax.checkpointing.experiment import open_workdir, require_experiment
from rae_jax.configuration.schema import GenerationEvaluationConfig, ImagesConfig, as_dict
from rae_jax.evaluation.features import Extractor, make_extractor
from rae_jax.evaluation.frechet import frechet_distance
from rae_jax.evaluation.images import ImageSet, open_set
from rae_jax.evaluation.inception_score import adm_inception_score, inception_score
from rae_jax.evaluation.kernel_distance import kernel_distance
from rae_jax.evaluation.precision_recall import precision_recall
from rae_jax.evaluation.references import (
    RECONSTRUCTION,
    SetStatistics,
    compute,
    open_reference,
)
from rae_jax.evaluation.report import FILE, Result, as_numbers, count_warnings, facts, size_warnings
from rae_jax.files import WORK_FOLDER, local_path
from rae_jax.monitoring.image_grids import grid, save_png
from rae_jax.sampling.samples import make_samples
from rae_jax.sharding.processes import is_main_process, wait_for_all
from rae_jax.typing import Float, UInt8

KIND = "evaluation of samples"
PICTURE = "neighbours.png"
_NEIGHBOURS, _RECALL_NEIGHBOURS = 7, 3
_LINE = 4
_SPLITS = 10
_ROWS = 4096
OF_FEATURES = ("precision_recall", "kid")
"""Metrics that need the features of the reference images, not only their moments."""


def evaluate(config: GenerationEvaluationConfig, workdir: str | pathlib.Path) -> Result:
    """Scores images as `config` says; several processes share the work.

    Writes `scores.json`, and `neighbours.png`: samples left of a white line, right of it
    the real images nearest to each in feature space.

    Raises:
        FileNotFoundError: Images, statistics or weights are missing.
        ValueError: They are of the wrong kind, or damaged.
    """
    folder = local_path(workdir, WORK_FOLDER).absolute()
    experiment = KIND, as_dict(config), ("extractor.rows",), (FILE,)
    require_experiment(folder, *experiment)
    extractor = make_extractor(config.extractor)
    images = _samples(config, folder)
    keep = bool(set(config.metrics) & set(OF_FEATURES)) or config.pictured > 0
    reference, real = open_reference(config.reference, extractor, keep=keep)
    samples = compute(images, extractor, keep=True)
    subsets = {"subsets": config.kid_subsets, "subset_size": config.kid_subset_size}
    result = score(samples, reference, extractor, metrics=config.metrics, **subsets)
    # Not before: an evaluation that fails for want of a file must not hold the folder.
    open_workdir(folder, *experiment)
    if is_main_process():
        if config.pictured:
            _draw(folder / PICTURE, images, samples, real, reference, config.pictured)
        result.save(folder)
    wait_for_all("evaluation.written")
    return result


def _samples(config: GenerationEvaluationConfig, folder: pathlib.Path) -> ImageSet:
    if not config.sampling.checkpoint:
        return open_set(config.samples)
    path = make_samples(config.sampling, folder / "samples")
    return open_set(ImagesConfig(path=str(path)))


def score(
    samples: SetStatistics,
    reference: SetStatistics,
    extractor: Extractor,
    *,
    metrics: Collection[str],
    subsets: int = 100,
    subset_size: int = 1000,
) -> Result:
    """Scores of one set of images against another, and warnings of what makes them incomparable.

    Distances of other features than those of FID have other names: `frechet_distance` and
    `kernel_distance`, or `fid_192` for another layer of Inception. What the network or the
    reference has no features for is left out, with a warning.

    Args:
        samples: With features.
        reference: With features, if precision, recall or KID are asked for.
        extractor: The network of both.
        metrics: Some of "fid", "sfid", "inception_score", "precision_recall", "kid".
        subsets: Of KID.
        subset_size: Of KID.

    Raises:
        ValueError: The two are of different networks.
    """
    width = len(samples.moments.mean)
    frechet, kernel = _names(extractor, width)
    scores: dict[str, float] = {}
    settings: dict[str, Any] = {}
    lost: list[str] = []
    if "fid" in metrics:
        scores[frechet] = frechet_distance(samples.moments, reference.moments)
    if "sfid" in metrics:
        if samples.spatial is None or reference.spatial is None:
            lost.append("sFID is left out: it needs spatial features of samples and reference")
        else:
            scores["sfid"] = frechet_distance(samples.spatial, reference.spatial)
    if "inception_score" in metrics:
        lost += _add_inception_score(scores, samples)
    if set(metrics) & set(OF_FEATURES):
        if samples.features is None or reference.features is None:
            names = "precision, recall and the kernel distance"
            lost.append(f"{names} are left out: the reference holds no features of its images")
        else:
            pair = samples.features.pooled, reference.features.pooled
            if "precision_recall" in metrics:
                lost += _add_precision_recall(scores, *pair)
                settings["precision_recall_neighbours"] = _RECALL_NEIGHBOURS
            if "kid" in metrics:
                lost += _add_kernel_distance(scores, kernel, *pair, subsets, subset_size)
                settings["kid"] = {"subsets": subsets, "subset_size": subset_size}
    return Result(
        as_numbers(scores),
        extractor.label,
        {"samples": facts(samples), "reference": facts(reference)},
        settings,
        (*_warnings(samples, reference, extractor, width), *lost),
    )


def _names(extractor: Extractor, width: int) -> tuple[str, str]:
    if not extractor.is_inception:
        return "frechet_distance", "kernel_distance"
    return ("fid", "kid") if width == 2048 else (f"fid_{width}", f"kid_{width}")


def _add_inception_score(scores: dict[str, float], samples: SetStatistics) -> list[str]:
    logits = None if samples.features is None else samples.features.logits
    if logits is None:
        return ["the Inception Score is left out: this network has no classes"]
    if len(logits) < _SPLITS:
        return [f"the Inception Score is left out: it needs {_SPLITS} samples"]
    mean, deviation = inception_score(logits, splits=_SPLITS)
    scores |= {"inception_score": mean, "inception_score_std": deviation}
    scores["inception_score_adm"] = adm_inception_score(logits)
    return []


def _add_precision_recall(
    scores: dict[str, float], samples: np.ndarray, reference: np.ndarray
) -> list[str]:
    if min(len(samples), len(reference)) <= _RECALL_NEIGHBOURS:
        return [f"precision and recall are left out: they need over {_RECALL_NEIGHBOURS} images"]
    values = precision_recall(samples, reference, neighbours=_RECALL_NEIGHBOURS)
    scores["precision"], scores["recall"] = values
    return []


def _add_kernel_distance(
    scores: dict[str, float],
    name: str,
    samples: np.ndarray,
    reference: np.ndarray,
    subsets: int,
    subset_size: int,
) -> list[str]:
    if min(len(samples), len(reference)) < subset_size:
        return [
            f"the kernel distance is left out: subsets of {subset_size:,} need as many samples "
            f"and reference images, here {len(samples):,} and {len(reference):,}; set a smaller "
            "kid_subset_size"
        ]
    values = kernel_distance(samples, reference, subsets=subsets, subset_size=subset_size)
    scores[name], scores[f"{name}_std"] = values
    return []


def _warnings(
    samples: SetStatistics, reference: SetStatistics, extractor: Extractor, width: int
) -> list[str]:
    found = count_warnings(samples, "samples") if extractor.is_inception else []
    if reference.purpose == RECONSTRUCTION:
        found.append(
            f"{reference.name} is a reference for rFID (originals of reconstructions); gFID "
            "compares with statistics of the training images"
        )
    if reference.purpose == "" and not reference.count:
        found.append(
            f"{reference.name} does not tell the count, size and purpose of its images; be sure "
            "that it is a reference for generated images of this size"
        )
    return found + size_warnings(samples, reference, "samples", width)


def nearest(
    points: Float[np.ndarray, "n D"], among: Float[np.ndarray, "N _"], count: int
) -> np.ndarray:
    """Numbers of the `count` rows of `among` nearest to each point, int [n, count], rising."""
    points = points.astype(np.float64)
    distances = []
    for start in range(0, len(among), _ROWS):
        rows = among[start : start + _ROWS].astype(np.float64)
        distances.append(np.square(rows).sum(axis=1)[None] - 2 * points @ rows.T)
    return np.argsort(np.concatenate(distances, axis=1), axis=1, kind="stable")[:, :count]


def _draw(
    path: pathlib.Path,
    images: ImageSet,
    samples: SetStatistics,
    real: ImageSet | None,
    reference: SetStatistics,
    pictured: int,
) -> None:
    if real is None or samples.features is None or reference.features is None:
        logging.info("no picture of neighbours: the reference is a file without its images")
        return
    # Evenly spread, because sets often come sorted by class.
    count = min(pictured, images.count)
    index = np.linspace(0, images.count - 1, count).astype(np.int64)
    among = min(_NEIGHBOURS, real.count)
    found = nearest(samples.features.pooled[index], reference.features.pooled, among)
    shown = images.read(index)
    near = _fitting(real.read(found.reshape(-1)), shown.shape[1:3])
    columns = grid(shown, columns=1), grid(near, columns=among)
    line = np.full((len(columns[0]), _LINE, 3), 255, np.uint8)
    save_png(path, np.concatenate([columns[0], line, columns[1]], axis=1))


def _fitting(
    images: UInt8[np.ndarray, "n H W 3"], size: tuple[int, ...]
) -> UInt8[np.ndarray, "n H2 W2 3"]:
    """The images in another size, for looking at only."""
    if images.shape[1:3] == size:
        return images
    shape = (len(images), *size, 3)
    resized = jax.image.resize(images.astype(np.float32), shape, "linear")
    return np.asarray(resized).round().clip(0, 255).astype(np.uint8)
