"""Scores of the model under training, by the same functions as those of finished images."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from rae_jax.configuration.schema import (
    OnlineEvaluationConfig,
    Stage1EvaluationConfig,
    Stage2EvaluationConfig,
)
from rae_jax.evaluation.features import make_extractor
from rae_jax.evaluation.generation import OF_FEATURES, score
from rae_jax.evaluation.images import open_set
from rae_jax.evaluation.reconstruction import PairCollector, make_measures
from rae_jax.evaluation.references import Collector, open_reference
from rae_jax.evaluation.report import Result
from rae_jax.sampling.labels import class_labels
from rae_jax.sampling.restore import noise_key
from rae_jax.sharding.mesh import BATCH_AXES, batch_sharding
from rae_jax.sharding.processes import is_main_process, own_rows, place
from rae_jax.training.state import TrainState
from rae_jax.typing import Array, Tree, UInt8


@runtime_checkable
class Evaluation(Protocol):
    """Scores a state by name; all processes call it together.

    Attributes:
        every: How often, a duration.
    """

    every: str

    def __call__(self, state: TrainState, frozen: Tree, mesh: Mesh) -> dict[str, float]:
        """Scores of the weights in `state`, with the frozen arrays on the same mesh."""
        ...


_SEED = 0
"""Of the samples that are scored, so that scores of different runs compare."""


def _weights(config: OnlineEvaluationConfig, state: TrainState) -> Iterator[tuple[str, Tree]]:
    trees = {"ema": state.ema, "raw": state.params}
    return ((name, trees[name]) for name in trees if name in config.weights)


def _batches(num_images: int, batch_size: int, mesh: Mesh) -> Iterator[tuple[np.ndarray, int]]:
    """Numbers of the images of each batch, filled up with the last one, and how many are real."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if num_images < parts:
        raise ValueError(
            f"evaluation.num_images must be at least mesh.data x mesh.fsdp = {parts}, got "
            f"{num_images}"
        )
    size = max(min(batch_size, num_images) // parts, 1) * parts
    for start in range(0, num_images, size):
        index = np.arange(start, start + size)
        yield np.minimum(index, num_images - 1).astype(np.int32), min(size, num_images - start)


class _Warnings:
    """Tells each warning of a result once in a run."""

    def __init__(self):
        self._told: set[str] = set()

    def __call__(self, result: Result) -> None:
        for text in result.warnings:
            if text not in self._told and is_main_process():
                logging.warning("evaluation: %s", text)
            self._told.add(text)


class ReconstructionEvaluation:
    """Scores the reconstructions of a fixed set of images."""

    def __init__(
        self,
        config: Stage1EvaluationConfig,
        image_size: int,
        reconstruct: Callable[[Tree, Tree, Tree, UInt8[Array, "B H W 3"]], UInt8[Array, "B H W 3"]],
    ):
        """Opens the images and loads the network of rFID.

        Args:
            config: Which images, which scores.
            image_size: Side of the images that the model takes.
            reconstruct: Pure `(params, buffers, frozen, images) -> reconstructions`.

        Raises:
            FileNotFoundError: Images or weights are missing.
            ValueError: They are of the wrong kind or size.
        """
        self._images = open_set(config.images)
        if self._images.image_size != (image_size, image_size):
            height, width = self._images.image_size
            raise ValueError(
                f"evaluation.images must have the size of the training images, {image_size} x "
                f"{image_size}, got {width} x {height}"
            )
        self._count = min(config.num_images, self._images.count)
        # Spread evenly, because sets often come sorted by class.
        self._numbers = np.linspace(0, self._images.count - 1, self._count).astype(np.int64)
        self._extractor = make_extractor(config.extractor) if "rfid" in config.metrics else None
        self._measures = make_measures(config.metrics, config.lpips, rows=config.extractor.rows)
        self.every = config.every
        self._config, self._function = config, reconstruct
        self._compiled: Callable[..., Any] | None = None
        self._warn = _Warnings()

    def __call__(self, state: TrainState, frozen: Tree, mesh: Mesh) -> dict[str, float]:
        """Scores by name: "ema/psnr", ..."""
        sharding = batch_sharding(mesh)
        if self._compiled is None:
            self._compiled = jax.jit(self._function, out_shardings=sharding)
        scores = {}
        for name, params in _weights(self._config, state):
            collector = PairCollector(self._measures, self._extractor)
            for index, real in _batches(self._count, self._config.batch_size, mesh):
                shape = (len(index), *self._images.image_size, 3)
                # Every process reads what its own devices take.
                read = functools.partial(self._read, index)
                images = jax.make_array_from_callback(shape, sharding, read)
                made = self._compiled(params, state.buffers, frozen, images)
                rows, reconstructions = own_rows(made)
                _, originals = own_rows(images)
                kept = rows < real
                numbers = index[rows[kept]].astype(np.int64)
                collector.add(numbers, originals[kept], reconstructions[kept])
            result = collector.result(self._images.name, self._images.notes)
            self._warn(result)
            scores |= {f"{name}/{what}": value for what, value in result.scores.items()}
        return scores

    def _read(self, index: np.ndarray, where: Any) -> UInt8[np.ndarray, "n H W 3"]:
        return np.asarray(self._images.read(self._numbers[index[where[0]]]))


class SampleEvaluation:
    """Scores samples of fixed noise and labels against real images."""

    def __init__(
        self,
        config: Stage2EvaluationConfig,
        num_classes: int,
        generate: Callable[..., UInt8[Array, "B H W 3"]],
    ):
        """Opens the reference, whose features are taken now if it holds none.

        Args:
            config: How many samples, which scores.
            num_classes: Labels of the model.
            generate: Pure `(weights, frozen, key, index, labels) -> images`, see `Generator`.

        Raises:
            FileNotFoundError: Images, statistics or weights are missing.
            ValueError: They are of the wrong kind, or damaged.
        """
        self._extractor = make_extractor(config.extractor)
        keep = bool(set(config.metrics) & set(OF_FEATURES))
        self._reference, _ = open_reference(config.reference, self._extractor, keep=keep)
        self._labels = class_labels("equal", config.num_images, num_classes, _SEED)
        self.every = config.every
        self._config, self._function = config, generate
        self._compiled: Callable[..., Any] | None = None
        self._warn = _Warnings()

    def __call__(self, state: TrainState, frozen: Tree, mesh: Mesh) -> dict[str, float]:
        """Scores by name: "ema/fid", ..."""
        config, sharding = self._config, batch_sharding(mesh)
        if self._compiled is None:
            self._compiled = jax.jit(self._function, out_shardings=sharding)
        key = noise_key(_SEED)
        scores = {}
        for name, params in _weights(config, state):
            collector = Collector(self._extractor, keep=True)
            weights = {"denoiser": (params, state.buffers)}
            for index, real in _batches(config.num_images, config.batch_size, mesh):
                labels = place((index, self._labels[index]), sharding)
                rows, images = own_rows(self._compiled(weights, frozen, key, *labels))
                kept = rows < real
                collector.add(index[rows[kept]].astype(np.int64), images[kept])
            result = score(
                collector.statistics("samples in training"),
                self._reference,
                self._extractor,
                metrics=config.metrics,
                subsets=config.kid_subsets,
                subset_size=config.kid_subset_size,
            )
            self._warn(result)
            scores |= {f"{name}/{what}": value for what, value in result.scores.items()}
        return scores
