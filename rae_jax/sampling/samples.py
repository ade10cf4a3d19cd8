"""A set of generated images as files, made in batches and resumable."""

import pathlib
import shutil
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from rae_jax import build
from rae_jax.checkpointing.experiment import (
    checkpoint_folder,
    open_workdir,
    require_experiment,
)
from rae_jax.checkpointing.partial_restore import latest_step
from rae_jax.configuration.schema import SamplingConfig, Stage2Config, as_dict, parse
from rae_jax.layers.functional import split
from rae_jax.monitoring.image_grids import grid, save_png
from rae_jax.monitoring.progress import progress_bar
from rae_jax.sampling.generate import Generator
from rae_jax.sampling.save import save_npz, save_pngs
from rae_jax.sharding.mesh import batch_sharding, make_mesh, replicated
from rae_jax.sharding.processes import require_one_process

KIND = "samples"
NPZ, PICTURE = "samples.npz", "samples.png"
_PNG = "png"
_COLUMNS = 12
_MAY_CHANGE = ("mesh", "save_png")
_RESULTS = (NPZ, "batches/*.npz")
_LABELS, _NOISE = range(2)


def class_labels(labels: str, num_images: int, num_classes: int, seed: int) -> np.ndarray:
    """Label of each sample, int32 [num_images].

    Args:
        labels: "equal": the classes in turn, so that their counts differ by one at most.
            "random": uniform, a function of seed and sample number. Otherwise labels with commas,
            repeated.
        num_images: How many.
        num_classes: Labels are below this.
        seed: Of "random".

    Raises:
        ValueError: A label that is none of the model's.
    """
    if labels == "random":
        key = jax.random.fold_in(jax.random.key(jnp.uint32(seed)), _LABELS)
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.arange(num_images))
        draws = jax.vmap(lambda key: jax.random.randint(key, (), 0, num_classes))(keys)
        return np.asarray(draws, np.int32)
    cycle = range(num_classes) if labels == "equal" else [int(label) for label in labels.split(",")]
    wrong = [label for label in cycle if label >= num_classes]
    if wrong:
        raise ValueError(f"labels must be below the model's {num_classes} classes, got {wrong}")
    return np.resize(np.asarray(cycle, np.int32), num_images)


def make_samples(config: SamplingConfig, workdir: str | pathlib.Path) -> pathlib.Path:
    """Generates the images of `config` into `workdir`, or goes on where a call was interrupted.

    Writes `samples.npz` (`arr_0` uint8 [N, H, W, 3], `arr_1` labels), `samples.png` with the
    first samples of each class in a row, and one PNG per image if asked for. Finished batches of
    an unfinished set wait in `batches/`. Does nothing if the set is complete.

    Returns:
        Path of the npz.

    Raises:
        FileNotFoundError: The stage-2 run or its autoencoder is missing.
        ValueError: Settings do not fit.
    """
    require_one_process("sampling to files")
    stage2 = _trained(config.checkpoint)
    num_classes = stage2.denoiser.num_classes
    labels = class_labels(config.labels, config.num_images, num_classes, config.seed)
    # The step is noted so that no set mixes, or passes for, the images of two moments of training.
    settings = {**as_dict(config), "step": latest_step(checkpoint_folder(config.checkpoint))}
    require_experiment(workdir, KIND, settings, _MAY_CHANGE, _RESULTS)
    path = pathlib.Path(workdir).absolute() / NPZ
    finished = _read(path)
    if finished is not None:
        logging.info("%s is there already", path)
        shutil.rmtree(path.parent / "batches", ignore_errors=True)
        pngs = path.parent / _PNG
        if config.save_png and len(list(pngs.glob("*.png"))) < len(finished):
            save_pngs(pngs, finished)
        return path
    generator = _Restored(config, stage2)
    settings["step"] = generator.step  # An older one, if the newest is damaged.
    folder = open_workdir(workdir, KIND, settings, _MAY_CHANGE, _RESULTS)
    images = _gathered(_batches(generator, config, labels, folder / "batches"), len(labels))
    if config.save_png:
        save_pngs(folder / _PNG, images)
    save_png(folder / PICTURE, rows_by_class(images, labels))
    # Last, because it marks the set as complete.
    save_npz(path, images, labels)
    shutil.rmtree(folder / "batches", ignore_errors=True)
    return path


def _gathered(batches: Iterator[np.ndarray], count: int) -> np.ndarray:
    """All images in one array, which is made once: a large set fits into memory only so."""
    first = next(batches)
    images = np.empty((count, *first.shape[1:]), first.dtype)
    images[: len(first)], done = first, len(first)
    for batch in batches:
        images[done : done + len(batch)] = batch
        done += len(batch)
    return images


def rows_by_class(images: np.ndarray, labels: np.ndarray, columns: int = _COLUMNS) -> np.ndarray:
    """The first images of each class in one row per class, as one picture."""
    groups = [images[labels == label] for label in np.unique(labels)]
    width = min(columns, min(map(len, groups)))
    return grid(np.concatenate([group[:width] for group in groups]), columns=width)


def _trained(checkpoint: str) -> Stage2Config:
    if not checkpoint:
        raise ValueError(
            "checkpoint is not set; set --config.checkpoint to the work folder of a stage-2 run"
        )
    stage2 = parse(Stage2Config, build.require_kind(checkpoint, build.STAGE2))
    if not stage2.autoencoder.checkpoint:
        raise ValueError(
            f"the stage-2 run in {checkpoint} has no decoder, so its samples cannot become "
            "images; train it with autoencoder.checkpoint set"
        )
    return stage2


class _Restored:
    """A trained denoiser with its autoencoder, ready to generate on a mesh."""

    def __init__(self, config: SamplingConfig, stage2: Stage2Config):
        self.mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        compute = build.Compute.of(stage2)
        autoencoder = build.pretrained_autoencoder(stage2.autoencoder, compute)
        latent_shape = autoencoder.latent_shape(stage2.data.image_size)
        self.step, definition, weights = build.restored_denoiser(
            config.checkpoint, stage2, latent_shape, weights=config.weights
        )
        models = {"denoiser": weights}
        guide = build.restored_guide(config.guidance, config.checkpoint, stage2, latent_shape)
        if guide is not None:
            models["guide"] = guide[1]
        autoencoder_definition, frozen = split(autoencoder)
        transport = build.flow_matching(stage2.transport, latent_shape)
        sampler = build.sampler(transport, latent_shape, config.sampler, config.guidance)
        function = Generator(definition, autoencoder_definition, sampler, guide and guide[0])
        self._function = jax.jit(function, out_shardings=replicated(self.mesh))
        whole = replicated(self.mesh)
        self._arguments = jax.device_put((models, frozen), whole)
        key = jax.random.fold_in(jax.random.key(jnp.uint32(config.seed)), _NOISE)
        self._key = jax.device_put(key, whole)

    def __call__(self, index: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Images of samples number `index`, uint8."""
        split_batch = batch_sharding(self.mesh)
        with jax.set_mesh(self.mesh):
            images = self._function(
                *self._arguments,
                self._key,
                jax.device_put(index, split_batch),
                jax.device_put(labels, split_batch),
            )
        return np.asarray(images)


def _batches(
    generator: _Restored, config: SamplingConfig, labels: np.ndarray, folder: pathlib.Path
) -> Iterator[np.ndarray]:
    """Images of all samples in batches; those on disk are read, others made and written."""
    devices = generator.mesh.devices.size
    batch_size = -(-min(config.batch_size, len(labels)) // devices) * devices
    index = np.arange(len(labels), dtype=np.int32)
    with progress_bar(len(labels), description="sampling", unit="image") as bar:
        for start in range(0, len(labels), batch_size):
            part = slice(start, min(start + batch_size, len(labels)))
            path = folder / f"{start:08d}-{part.stop:08d}.npz"
            images = _read(path)
            if images is None:
                # Every call has the same shapes, so that there is one compilation.
                rows = np.resize(index[part], batch_size)
                images = generator(rows, labels[rows])[: part.stop - start]
                save_npz(path, images, labels[part])
            bar.update(len(images))
            yield images


def _read(path: pathlib.Path) -> np.ndarray | None:
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return arrays["arr_0"]
