"""A set of generated images as files, made in batches over all devices and resumable."""

import collections
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from rae_jax.build.meshes import frozen_shardings, require_heads
from rae_jax.checkpointing.claim import claimed, require_free
from rae_jax.checkpointing.experiment import open_workdir, require_experiment
from rae_jax.configuration.schema import SamplingConfig, as_dict
from rae_jax.files import AnyPath, absolute, local_copy, remove_folder
from rae_jax.monitoring.image_grids import grid, save_png
from rae_jax.monitoring.progress import progress_bar
from rae_jax.sampling.generate import Generator
from rae_jax.sampling.labels import class_labels
from rae_jax.sampling.restore import Restored, noise_key, require_samples, restore
from rae_jax.sampling.save import open_images, png_name, save_npz, save_pngs
from rae_jax.sampling.shards import (
    Shard,
    find_shards,
    missing,
    read_blocks,
    read_images,
    write_shard,
)
from rae_jax.sharding.mesh import BATCH_AXES, batch_sharding, make_mesh, on_host
from rae_jax.sharding.processes import (
    from_main,
    is_main_process,
    own_rows,
    place,
    wait_for_all,
)
from rae_jax.sharding.rules import require_cut, tree_shardings
from rae_jax.typing import Array, Int, UInt8

KIND = "samples"
NPZ, PICTURE = "samples.npz", "samples.png"
_PNG, _SHARDS = "png", "shards"
_MAY_CHANGE = ("mesh", "save_png", "batch_size")
_RESULTS = (NPZ, f"{_SHARDS}/*.npy")
_PICTURE_SIDE, _PICTURED = 2600, 12


def make_samples(config: SamplingConfig, workdir: str | AnyPath) -> AnyPath:
    """Generates the images of `config` into `workdir`, or goes on where a call was interrupted.

    Writes `samples.npz` (`arr_0` uint8 [N, H, W, 3], `arr_1` labels), `samples.png` with the
    first samples of the first classes, and one PNG per image if asked for. Every process writes
    the images of its own devices into `shards/`, and the first one joins them when all are there,
    so the folder must be one that all processes share. Does nothing if the set is complete.

    Returns:
        Path of the npz.

    Raises:
        FileNotFoundError: A run or its autoencoder is missing.
        ValueError: Settings do not fit, or another job is at work in the folder.
        OSError: A file cannot be written, as on a full disk. What is there stays; start again to
            go on.
    """
    stage2, steps = require_samples(config)
    labels = class_labels(
        config.labels, config.num_images, stage2.denoiser.num_classes, config.seed
    )
    noted = KIND, _settings(config, steps), _MAY_CHANGE, _RESULTS, as_dict(SamplingConfig())
    require_experiment(workdir, *noted)
    path = absolute(workdir) / NPZ
    if from_main(np.asarray(path.exists())):
        if is_main_process():
            logging.info("%s is there already", path)
            _clean_up(path, config)
        return path
    require_free(workdir)
    # Before anything large is loaded, because the devices may not be as many as the settings say.
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    require_heads(stage2.denoiser, mesh)
    with on_host():
        restored = restore(config)
    generate = _Batches(restored, config, mesh)
    settings = _settings(config, generate.steps)  # Older steps, if the newest are damaged.
    with claimed(workdir):
        folder = open_workdir(workdir, KIND, settings, *noted[2:])
        _make_missing(generate, config, labels, folder)
        wait_for_all("samples.made")
        if is_main_process():
            shards = find_shards(folder / _SHARDS, generate.image_shape)
            _require_all(shards, len(labels), folder)
            index, columns = pictured(labels, generate.image_shape[1])
            save_png(folder / PICTURE, grid(read_images(shards, index), columns))
            # Last, because it marks the set as complete.
            save_npz(path, read_blocks(shards), labels)
            _clean_up(path, config)
        wait_for_all("samples.joined")
    return path


def _settings(config: SamplingConfig, steps: dict[str, int]) -> dict[str, object]:
    # Steps are noted so that no set mixes, or passes for, the images of two moments of training.
    noted = {"step" if name == "denoiser" else f"{name}_step": n for name, n in steps.items()}
    return {**as_dict(config), **noted}


class _Batches:
    """Images of any samples, drawn by all devices together, each its part of the batch."""

    def __init__(self, restored: Restored, config: SamplingConfig, mesh: Mesh):
        self.mesh = mesh
        self.steps = restored.steps
        arguments = restored.weights, restored.frozen
        require_cut(restored.weights, mesh.shape)
        placed = tree_shardings(restored.weights, mesh)
        placed_frozen = frozen_shardings(restored.frozen, mesh, config.mesh)
        self._arguments = place(arguments, (placed, placed_frozen))
        self._key = noise_key(config.seed)
        self._function = jitted(restored.generator, self.mesh)
        self.batch_size = whole_batch(config, mesh)
        index = jax.ShapeDtypeStruct((1,), np.int32)
        images = jax.eval_shape(restored.generator, *arguments, self._key, index, index)
        self.image_shape: tuple[int, int, int] = images.shape[1:]

    def __call__(
        self, index: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
    ) -> UInt8[Array, "B H W 3"]:
        """At least the images number `index`; returns while the devices are still at work."""
        # Every call has the same shapes, so that there is one compilation.
        fill = (0, self.batch_size - len(index))
        rows = np.pad(index, fill, mode="edge"), np.pad(labels, fill, mode="edge")
        with jax.set_mesh(self.mesh):
            return self._function(
                *self._arguments, self._key, *place(rows, batch_sharding(self.mesh))
            )


def jitted(generator: Generator, mesh: Mesh) -> Any:
    """The generator as it is compiled for a mesh."""
    return jax.jit(generator, out_shardings=batch_sharding(mesh))


def whole_batch(config: SamplingConfig, mesh: Mesh) -> int:
    """Images at a time: at least as many as are asked for, and equally many for each part."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    return -(-min(config.batch_size, config.num_images) // parts) * parts


def _make_missing(
    generate: _Batches, config: SamplingConfig, labels: np.ndarray, folder: AnyPath
) -> None:
    """Makes the images that no shard holds, and writes those of this process."""
    there = np.zeros(len(labels), bool)
    if is_main_process():
        shards = find_shards(folder / _SHARDS, generate.image_shape)
        there[:] = True
        there[missing(shards, len(labels))] = False
    todo = np.flatnonzero(~from_main(there)).astype(np.int32)
    in_flight: collections.deque[tuple[np.ndarray, Array]] = collections.deque()
    ends: list[float] = []

    def finish_first() -> None:
        index, images = in_flight.popleft()
        _write_own(index, images, folder, save_png=config.save_png)
        bar.update(len(index))
        ends.append(time.perf_counter())

    with progress_bar(
        len(labels), done=len(labels) - len(todo), description="sampling", unit="image"
    ) as bar:
        for start in range(0, len(todo), generate.batch_size):
            index = todo[start : start + generate.batch_size]
            in_flight.append((index, generate(index, labels[index])))
            # One batch is written while the devices work on the next.
            if len(in_flight) > 1:
                finish_first()
        while in_flight:
            finish_first()
    if len(ends) > 1 and is_main_process():
        # Without the first batch, which waits for compilation.
        rate = (len(todo) - generate.batch_size) / (ends[-1] - ends[0])
        logging.info("%s images, %.3g images/s", f"{len(todo):,}", rate)


def _write_own(
    index: Int[np.ndarray, " n"], images: Array, folder: AnyPath, *, save_png: bool
) -> None:
    """Writes what this process has of the images number `index`; rows beyond them are filling."""
    rows, own = own_rows(images)
    real = rows < len(index)
    numbers, own = index[rows[real]], own[real]
    ends = np.flatnonzero(np.diff(numbers) != 1) + 1
    for consecutive, part in zip(np.split(numbers, ends), np.split(own, ends), strict=True):
        if not len(part):
            continue
        # First, so that what is in a shard has its PNGs too.
        if save_png:
            save_pngs(folder / _PNG, part, int(consecutive[0]))
        write_shard(folder / _SHARDS, int(consecutive[0]), part)


def _require_all(shards: Sequence[Shard], num_images: int, folder: AnyPath) -> None:
    lost = missing(shards, num_images)
    if len(lost):
        raise ValueError(
            f"{len(lost)} images are not in {folder / _SHARDS}, the first is number {lost[0]}; "
            "let --workdir be on a file system that all processes share, and start again"
        )


def _clean_up(path: AnyPath, config: SamplingConfig) -> None:
    """Leaves a finished set without its shards, and with PNGs if they are wanted."""
    remove_folder(path.parent / _SHARDS)
    if config.save_png:
        there = {file.name for file in (path.parent / _PNG).glob("*.png")}
        with local_copy(path) as copy:
            images = open_images(copy)
            for number, name in enumerate(map(png_name, range(len(images)))):
                if name not in there:
                    save_png(path.parent / _PNG / name, images[number])


def pictured(labels: Int[np.ndarray, " N"], side: int) -> tuple[Int[np.ndarray, " n"], int]:
    """Which samples to show in one picture of bounded size, and in how many columns.

    The first samples of each of the lowest labels, a row per label; or, if a label comes only
    once, the first samples as they come.

    Args:
        labels: Of all samples.
        side: Of an image, in pixels.
    """
    most = min(max(_PICTURE_SIDE // side, 1), _PICTURED)
    rows = [np.flatnonzero(labels == label)[:most] for label in np.unique(labels)[:most]]
    columns = min(map(len, rows))
    if columns > 1:
        return np.concatenate([row[:columns] for row in rows]), columns
    index = np.arange(min(len(labels), most**2))
    return index, math.isqrt(len(index) - 1) + 1
