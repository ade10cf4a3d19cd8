"""How close reconstructions come to their originals."""

import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

from rae_jax.checkpointing.experiment import open_workdir
from rae_jax.configuration.schema import ReconstructionEvaluationConfig, as_dict
from rae_jax.evaluation.features import Extractor, make_extractor
from rae_jax.evaluation.frechet import frechet_distance
from rae_jax.evaluation.images import ImageSet, open_path, open_set
from rae_jax.evaluation.references import GENERATION, Collector, SetStatistics, load
from rae_jax.evaluation.report import FILE, Result, as_numbers, count_warnings, facts, size_warnings
from rae_jax.evaluation.rows import RowFunction
from rae_jax.evaluation.structural_similarity import ssim
from rae_jax.files import WORK_FOLDER, local_path
from rae_jax.layers.functional import split
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.monitoring.image_grids import grid, save_png
from rae_jax.monitoring.progress import progress_bar
from rae_jax.ops.images import to_float, to_signed, to_uint8
from rae_jax.pretrained import load_autoencoder
from rae_jax.sharding.processes import is_main_process, ordered_rows, wait_for_all
from rae_jax.typing import Array, Float, Int, Tree, UInt8
from rae_jax.weights.auxiliary import LPIPS_FILE, VGG16_FILE, load_lpips

KIND = "evaluation of reconstructions"
PICTURE = "pairs.png"

_FLOOR = 1e-10
_WHAT = "reconstructions"

Images = UInt8[np.ndarray, "N H W 3"]
Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(reconstructions, originals), uint8 [N, H, W, 3], to one number per pair."""
Reconstruct = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(numbers, originals) to reconstructions."""


def psnr(
    reconstructions: UInt8[np.ndarray, "N H W C"], images: UInt8[np.ndarray, "N H W C"]
) -> Float[np.ndarray, " N"]:
    """Peak signal-to-noise ratio of each image in dB, on [0, 1].

    The squared error has a floor of 1e-10, so equal images score 100 dB (bytetriper/RAE,
    eval/metrics).
    """
    difference = reconstructions.astype(np.int32) - images
    # Whole numbers, whose sum has no rounding.
    total = np.square(difference).sum(axis=(1, 2, 3), dtype=np.int64)
    error = total / (np.prod(images.shape[1:]) * 255.0**2)
    return -10 * np.log10(np.maximum(error, _FLOOR))


def make_measures(
    metrics: Collection[str], lpips: str = "", *, rows: int = 32, devices: list[Any] | None = None
) -> dict[str, Measure]:
    """Scores of single pairs by name; a set scores their mean.

    Args:
        metrics: Those of "psnr", "ssim" and "lpips" are made.
        lpips: Folder with the files that LPIPS reads, see `weights.auxiliary.load_lpips`.
        rows: Pairs at a time per device, for SSIM and LPIPS.
        devices: Those of this process unless given.

    Raises:
        FileNotFoundError: A file of LPIPS is missing.
        ValueError: The folder is not set, or holds other files.
    """
    made: dict[str, Measure] = {}
    if "psnr" in metrics:
        made["psnr"] = psnr
    if "ssim" in metrics:
        made["ssim"] = _make_ssim(rows, devices)
    if "lpips" in metrics:
        made["lpips"] = _make_lpips(lpips, rows, devices)
    return made


def _make_ssim(rows: int, devices: list[Any] | None) -> Measure:
    def similarities(_: Tree, first: Array, second: Array) -> dict[str, Array]:
        return {"ssim": ssim(first, second)}

    settings = {"num_inputs": 2, "rows": rows, "devices": devices, "double": True}
    compiled = RowFunction(similarities, {}, **settings)
    return lambda reconstructions, images: compiled(reconstructions, images)["ssim"]


def _make_lpips(folder: str, rows: int, devices: list[Any] | None) -> Measure:
    if not folder:
        raise ValueError(
            f"lpips needs {VGG16_FILE} of torchvision and {LPIPS_FILE} of the package lpips; set "
            "--config.lpips to a folder with both, or leave it out of the metrics"
        )
    definition, arrays = split(load_lpips(folder, dtype="float32"))

    def distances(arrays: Tree, first: Array, second: Array) -> dict[str, Array]:
        pair = (to_signed(to_float(images)) for images in (first, second))
        return {"lpips": definition.merge(arrays)(*pair)}

    compiled = RowFunction(distances, arrays, num_inputs=2, rows=rows, devices=devices)
    return lambda reconstructions, images: compiled(reconstructions, images)["lpips"]


class PairCollector:
    """Takes in pairs, each process its own, and gives their scores; offline and in training."""

    def __init__(
        self,
        measures: Mapping[str, Measure],
        extractor: Extractor | None = None,
        reference: SetStatistics | None = None,
    ):
        """Begins with no pairs.

        Args:
            measures: Scores of single pairs by name, see `make_measures`.
            extractor: Network of rFID; None leaves that out.
            reference: Statistics of the originals, in whose place rFID would take those it sees.

        Raises:
            ValueError: The reference is of another network.
        """
        self._measures = measures
        self._values: dict[str, list[np.ndarray]] = {name: [] for name in measures}
        self._index: list[np.ndarray] = []
        self._extractor, self._reference = extractor, reference
        self._sides: list[Collector] = []
        if extractor is None:
            return
        if reference is not None and reference.extractor != extractor.label:
            raise ValueError(
                f"{reference.name} holds statistics of the network {reference.extractor!r}, but "
                f"the extractor is {extractor.label!r}; take features of the same network"
            )
        sides = 1 if reference is not None else 2
        self._sides = [Collector(extractor, keep=False) for _ in range(sides)]

    def add(self, index: Int[np.ndarray, " n"], originals: Images, reconstructions: Images) -> None:
        """Takes in the pairs number `index`, of which there may be none."""
        if not len(index):
            return
        self._index.append(index)
        for name, measure in self._measures.items():
            self._values[name].append(measure(reconstructions, originals))
        for side, images in zip(self._sides, (reconstructions, originals), strict=False):
            side.add(index, images)

    def values(self) -> dict[str, Float[np.ndarray, " N"]]:
        """Score of every pair of all processes, by name, in the order of their numbers."""
        index = np.concatenate(self._index)
        return {
            name: ordered_rows(index, np.concatenate(parts)) for name, parts in self._values.items()
        }

    def result(self, name: str, notes: tuple[str, ...] = ()) -> Result:
        """Scores of the whole set.

        Args:
            name: Where the originals are from.
            notes: What a reader of scores must know of the images.
        """
        numbers = np.concatenate(self._index)
        scores = {key: float(values.mean()) for key, values in self.values().items()}
        settings = {"pairs": len(ordered_rows(numbers, numbers))}
        if self._extractor is None:
            return Result(as_numbers(scores), "", {}, settings, notes)
        made = self._sides[0].statistics(f"reconstructions of {name}", notes)
        reference = self._reference
        if reference is None:
            reference = self._sides[1].statistics(name, notes)
        width = len(made.moments.mean)
        distance = frechet_distance(made.moments, reference.moments)
        scores[_rfid_name(self._extractor, width)] = distance
        sets = {"reconstructions": facts(made), "reference": facts(reference)}
        published = count_warnings(made, _WHAT) if self._extractor.is_inception else []
        warnings = (
            *published,
            *_purpose_warnings(reference),
            *size_warnings(made, reference, _WHAT, width),
        )
        return Result(as_numbers(scores), self._extractor.label, sets, settings, warnings)


def _rfid_name(extractor: Extractor, width: int) -> str:
    if not extractor.is_inception:
        return "reconstruction_frechet_distance"
    return "rfid" if width == 2048 else f"rfid_{width}"


def _purpose_warnings(reference: SetStatistics) -> list[str]:
    if reference.purpose != GENERATION:
        return []
    return [
        f"{reference.name} is a reference for gFID (training images); rFID compares with the "
        "originals of the reconstructions"
    ]


def evaluate(config: ReconstructionEvaluationConfig, workdir: str | pathlib.Path) -> Result:
    """Scores reconstructions as `config` says; several processes share the work.

    Writes `scores.json`, and `pairs.png`: originals over their reconstructions.

    Raises:
        FileNotFoundError: Images, statistics, a run or weights are missing.
        ValueError: They are of the wrong kind, do not fit together, or are damaged.
    """
    folder = local_path(workdir, WORK_FOLDER).absolute()
    if not (config.reconstructions or config.checkpoint):
        raise ValueError(
            "set --config.reconstructions to the reconstructions, or --config.checkpoint to the "
            "autoencoder that makes them, such as the work folder of a stage-1 run"
        )
    extractor = make_extractor(config.extractor) if "rfid" in config.metrics else None
    reference = load(config.reference) if config.reference else None
    measures = make_measures(config.metrics, config.lpips, rows=config.extractor.rows)
    collector = PairCollector(measures, extractor, reference)
    originals = open_set(config.originals)
    reconstruct, notes = _reconstructions(config, originals)
    open_workdir(folder, KIND, as_dict(config), ("extractor.rows",), results=[FILE])
    place = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    part_size = config.extractor.rows * jax.local_device_count()
    with progress_bar(originals.count, description="scoring", unit="image") as bar:
        for index, images in originals.parts(part_size, **place):
            collector.add(index, images, reconstruct(index, images))
            bar.update(len(index) * jax.process_count())
    result = collector.result(originals.name, notes)
    if is_main_process():
        if config.pictured:
            _draw(folder / PICTURE, originals, reconstruct, config.pictured)
        result.save(folder)
    wait_for_all("evaluation.written")
    return result


def _draw(path: pathlib.Path, originals: ImageSet, reconstruct: Reconstruct, pictured: int) -> None:
    # Evenly spread, because sets often come sorted by class.
    count = min(pictured, originals.count)
    index = np.linspace(0, originals.count - 1, count).astype(np.int64)
    images = originals.read(index)
    save_png(path, grid(np.concatenate([images, reconstruct(index, images)]), columns=count))


def _reconstructions(
    config: ReconstructionEvaluationConfig, originals: ImageSet
) -> tuple[Reconstruct, tuple[str, ...]]:
    """The reconstructions, and what a reader of scores must know of the images."""
    if not config.reconstructions:
        return _made_now(config, originals), originals.notes
    made = open_path(config.reconstructions)
    _require_alike(originals, made)
    notes = (*originals.notes, *(note for note in made.notes if note not in originals.notes))
    return lambda index, _: made.read(index), notes


def _made_now(config: ReconstructionEvaluationConfig, originals: ImageSet) -> Reconstruct:
    """By the autoencoder of a run, on all devices of this process."""
    source: dict[str, Any] = {} if config.weights == "ema" else {"weights": config.weights}
    autoencoder = load_autoencoder(config.checkpoint, **source)
    _require_size(config.checkpoint, autoencoder, originals.image_size)
    definition, frozen = split(autoencoder)

    def reconstruct(frozen: Tree, images: Array) -> dict[str, Array]:
        return {"images": to_uint8(definition.merge(frozen)(to_float(images)))}

    compiled = RowFunction(reconstruct, frozen, rows=config.extractor.rows)
    return lambda _, images: compiled(images)["images"]


def _require_size(checkpoint: str, autoencoder: Any, size: tuple[int, int]) -> None:
    """Raises ValueError unless the autoencoder gives back images of the size of the originals."""
    if not isinstance(autoencoder, AutoencoderRAE):
        for side in size:
            autoencoder.latent_shape(side)
        return
    side = autoencoder.image_size
    if size != (side, side):
        raise ValueError(
            f"the autoencoder in {checkpoint} takes images of {side} x {side} pixels, the "
            f"originals have {size[1]} x {size[0]}; take them as a data set with "
            f"originals.data.image_size={side}"
        )


def _require_alike(originals: ImageSet, made: ImageSet) -> None:
    """Raises ValueError unless the two sets can be pairs."""
    for what, first, second in (
        ("the same number of images", originals.count, made.count),
        ("images of one height and width", originals.image_size, made.image_size),
    ):
        if first != second:
            raise ValueError(
                f"originals and reconstructions must have {what}; {originals.name} has {first}, "
                f"{made.name} has {second}"
            )
    if not (originals.names and made.names):
        return
    for first, second in zip(originals.names, made.names, strict=True):
        if first != second:
            raise ValueError(
                "originals and reconstructions in folders must be called alike to be pairs; "
                f"{originals.name} has {first} where {made.name} has {second}"
            )
