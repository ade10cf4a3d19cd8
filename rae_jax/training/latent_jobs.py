"""Jobs over the latents of a whole data set."""

import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging

from rae_jax import build
from rae_jax.checkpointing.claim import claimed, require_free
from rae_jax.checkpointing.experiment import open_workdir, require_experiment
from rae_jax.configuration.schema import StatisticsConfig, as_dict
from rae_jax.data import pipeline
from rae_jax.data.sources.base import Selection, Source
from rae_jax.files import AnyPath, absolute, local_path, remove_folder, replacing
from rae_jax.layers.functional import split
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.monitoring.progress import progress_bar
from rae_jax.ops.images import to_float
from rae_jax.reconstruction.latent_statistics import BatchMoments, LatentStatistics, batch_moments
from rae_jax.sharding.each_device import on_each_device
from rae_jax.sharding.processes import from_main, is_main_process, wait_for_all
from rae_jax.training.latent_blocks import Blocks, Task
from rae_jax.typing import Array, Int, Tree
from rae_jax.weights import convert
from rae_jax.weights.autoencoders import load_statistics
from rae_jax.weights.registry import STATISTICS, Statistics
from rae_jax.weights.torch_files import write_torch

STATISTICS_FILE, TORCH_FILE = "latent_statistics.npz", "stat.pt"
COMPARISON_FILE = "comparison.json"
_PARTIAL = "partial"
_MAY_CHANGE = ("data.num_threads", "data.num_workers", "save_seconds", "reference")


def compute_statistics(config: StatisticsConfig, workdir: str | AnyPath) -> AnyPath:
    """Mean and variance of the features of every image, in one pass.

    The images are cut into blocks of `batch_size`, every device takes whole blocks by itself, and
    their moments are merged in float64 along one fixed tree. So the statistics are the same bit
    for bit on any number of devices and processes, and however often the job was interrupted.

    Writes `latent_statistics.npz`, the same as `stat.pt` of the RAE release, and `comparison.json`
    if there is a reference. The folder must be one that all processes share: they meet there what
    each has done, in `partial/`. Does not compute again what the folder holds already.

    Returns:
        Path of the npz with `mean`, `variance` and `count`, see `LatentStatistics.save`.

    Raises:
        FileNotFoundError: Images, encoder or reference are missing.
        FloatingPointError: Features are not finite.
        ValueError: Settings do not fit, the folder or the reference hold something else, or
            another job is at work in the folder.
    """
    reference = read_reference(config.reference) if config.reference else None
    path = absolute(workdir) / STATISTICS_FILE
    finished = bool(from_main(np.asarray(path.exists())))
    noted = (
        "statistics",
        as_dict(config),
        # Parts of several sizes would not fit into one tree.
        (*_MAY_CHANGE, "batch_size") if finished else _MAY_CHANGE,
        (STATISTICS_FILE, f"{_PARTIAL}/*.npz"),
        as_dict(StatisticsConfig()),
    )
    require_experiment(workdir, *noted)
    if finished:
        logging.info("%s is there already", path)
    else:
        require_free(workdir)
        job = _Job(config, reference)
        with claimed(workdir):
            open_workdir(workdir, *noted)
            job.go_through(path.parent / _PARTIAL)
            if is_main_process():
                job.join(path.parent / _PARTIAL).save(path)
    wait_for_all("statistics.written")
    statistics = LatentStatistics.load(path)
    if reference is not None:
        _require_comparable(reference, config.reference, statistics.mean.shape, statistics.encoder)
    if is_main_process():
        remove_folder(path.parent / _PARTIAL)
        module = Statistics(statistics.mean, statistics.variance)
        write_torch(path.parent / TORCH_FILE, convert.export(STATISTICS, module))
        if reference is not None:
            _compare(path.parent / COMPARISON_FILE, statistics, reference, config.reference)
    return path


class _Job:
    """Everything that the moments are taken of and with."""

    def __init__(self, config: StatisticsConfig, reference: LatentStatistics | None):
        self._config = config
        self._source: Source = build.source(config.data)
        encoder = build.encoder(config.autoencoder, build.Compute(config.dtype))
        autoencoder = build.autoencoder(config.autoencoder, encoder, None)
        self._task = Task(
            len(self._source),
            min(config.batch_size, len(self._source)),
            build.encoder_fingerprint(encoder),
            config.momentum,
            config.momentum_ranks,
        )
        if config.momentum_ranks > self._task.num_blocks:
            raise ValueError(
                f"momentum_ranks must be at most the number of batches, {self._task.num_blocks}, "
                f"got {config.momentum_ranks}; set a smaller batch_size"
            )
        if reference is not None:
            shape = autoencoder.latent_shape(config.data.image_size)
            _require_comparable(reference, config.reference, shape, self._task.encoder)
        self._devices = jax.local_devices()
        self._moments = _moments_per_device(autoencoder, self._devices)

    def go_through(self, folder: AnyPath) -> None:
        """Takes the moments of this process's share of what no file in `folder` holds."""
        done = from_main(Blocks(self._task).load(folder).done())
        share = np.array_split(np.flatnonzero(~done), jax.process_count())[jax.process_index()]
        there = min(int(done.sum()) * self._task.batch_size, self._task.num_records)
        with progress_bar(
            self._task.num_records, done=there, description="statistics", unit="image"
        ) as bar:
            if len(share):
                self._take(share, folder / f"{share[0]:08d}.npz", bar.update)
        wait_for_all("statistics.taken")

    def _take(
        self, share: Int[np.ndarray, " n"], path: AnyPath, advance: Callable[[float], object]
    ) -> None:
        """Takes the moments of some blocks into a file."""
        own = Blocks(self._task)
        width, size = len(self._devices), self._task.batch_size
        batches = pipeline.evaluation_batches(
            Selection(self._source, self._task.records(share)),
            batch_size=width * size,
            transforms=build.transformations(self._config.data),
            num_threads=self._config.data.num_threads,
        )
        saved = time.monotonic()

        def finish(blocks: np.ndarray, moments: BatchMoments) -> None:
            nonlocal saved
            taken = jax.device_get(moments)
            for row, block in enumerate(blocks):
                own.add(int(block), BatchMoments(*(leaf[row] for leaf in taken)))
            advance(int(taken.samples.sum()) * jax.process_count())
            if time.monotonic() - saved >= self._config.save_seconds:
                own.save(path)
                saved = time.monotonic()

        pending = None
        for start, batch in zip(range(0, len(share), width), batches, strict=True):
            started = self._moments(batch["images"], batch["valid"])
            # The devices work on these images while the last ones' moments are merged.
            if pending is not None:
                finish(*pending)
            pending = share[start : start + width], started
        if pending is not None:
            finish(*pending)
        own.save(path)

    def join(self, folder: AnyPath) -> LatentStatistics:
        """Statistics of the blocks in the files of all processes.

        Raises:
            ValueError: They do not hold all blocks.
        """
        blocks = Blocks(self._task).load(folder)
        lacking = int((~blocks.done()).sum())
        if lacking:
            raise ValueError(
                f"{lacking} of {self._task.num_blocks} blocks are not in {folder}; let --workdir "
                "be on a file system that all processes share, and start again"
            )
        return blocks.statistics()


def _moments_per_device(
    autoencoder: AutoencoderRAE, devices: list[Any]
) -> Callable[[np.ndarray, np.ndarray], BatchMoments]:
    """Function of uint8 images and their validity, a block of them for each device."""
    definition, arrays = split(autoencoder)

    def block(arrays: Tree, images: Array, valid: Array) -> BatchMoments:
        features = definition.merge(arrays).features(to_float(images))
        return jax.tree.map(lambda leaf: leaf[None], batch_moments(features, valid))

    return on_each_device(block, arrays, devices)


def read_reference(path: str) -> LatentStatistics:
    """Statistics to compare with: an npz of ours, or `stat.pt` of the RAE release.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else.
    """
    if path.endswith(".npz"):
        return LatentStatistics.load(path)
    if not local_path(path, "reference").is_file():
        raise FileNotFoundError(f"no latent statistics at {path}; correct the reference")
    published = load_statistics(path)
    mean, variance = published.mean[...], published.variance[...]
    return LatentStatistics(0, np.asarray(mean, np.float64), np.asarray(variance, np.float64))


def _require_comparable(
    reference: LatentStatistics, name: str, shape: tuple[int, ...], encoder: str
) -> None:
    if reference.mean.shape != shape:
        raise ValueError(
            f"the reference {name} must have the latents' shape {shape} (h, w, C), got "
            f"{reference.mean.shape}; take one of this encoder and input size, or none"
        )
    if reference.encoder not in ("", encoder):
        raise ValueError(
            f"the reference {name} is of another encoder than these statistics; take one of this "
            "encoder, or none"
        )


def _compare(
    path: AnyPath, statistics: LatentStatistics, reference: LatentStatistics, name: str
) -> None:
    """Tells how far the statistics are from the reference, in the log and in a file."""
    difference = statistics.difference(reference)
    for part, values in difference.items():
        logging.info(
            "%s differs from that of %s by %.3g at most and %.3g on average; in units of the "
            "reference's deviation %.3g and %.3g",
            part,
            name,
            values["max_absolute"],
            values["mean_absolute"],
            values["max_relative"],
            values["mean_relative"],
        )
    content = {"reference": name, "images": statistics.count, **difference}
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")
