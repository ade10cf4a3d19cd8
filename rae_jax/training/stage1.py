"""Stage 1: trains a decoder on a frozen encoder."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from rae_jax import build
from rae_jax.configuration.schema import Stage1Config
from rae_jax.layers.functional import Buffer, Frozen, abstract, split
from rae_jax.models.decoders.vit_decoder import ViTDecoder
from rae_jax.monitoring.image_grids import grid
from rae_jax.monitoring.writers import Writer
from rae_jax.ops.images import to_float, to_uint8
from rae_jax.training import run
from rae_jax.training.evaluation import ReconstructionEvaluation
from rae_jax.training.run import (
    INITIALISATION,
    TRAINING,
    Job,
    addressed_key,
    configured_optimizer,
)
from rae_jax.training.stage1_step import Stage1Step
from rae_jax.training.state import TrainState
from rae_jax.typing import Array, Tree

_PREVIEWED = 8


def train(config: Stage1Config, workdir: str | pathlib.Path) -> pathlib.Path:
    """Trains, or goes on with, the decoder of `config` in `workdir`; see `run.train`."""
    return run.train(build.STAGE1, make_job, config, workdir)


def make_job(config: Stage1Config) -> Job:
    """What stage 1 brings to a run.

    Raises:
        FileNotFoundError: Encoder or images are not to be had.
        ValueError: Settings or files do not fit together.
    """
    source = build.source(config.data)
    to_steps = build.durations(len(source), config.global_batch_size)
    optimizer, schedule = configured_optimizer(config.optimizer, config.schedule, to_steps)
    compute = build.Compute.of(config)
    encoder = build.encoder(config.autoencoder, compute)
    build.require_image_size(config.autoencoder, encoder, config.data)

    def fresh_decoder() -> ViTDecoder:
        rngs = nnx.Rngs(addressed_key(config.seed, INITIALISATION))
        return build.decoder(config.autoencoder, encoder, compute, rngs=rngs)

    autoencoder = build.autoencoder(config.autoencoder, encoder, abstract(fresh_decoder))
    definition, _, _, frozen = split(autoencoder, nnx.Param, Buffer, Frozen)

    def initial_state() -> TrainState:
        _, params, buffers = split(fresh_decoder(), nnx.Param, Buffer)
        key = addressed_key(config.seed, TRAINING)
        return TrainState.create({"decoder": params}, {"decoder": buffers}, optimizer, key)

    step_function = Stage1Step(
        definition,
        optimizer,
        schedule,
        ema_decay=config.ema_decay,
        noise_tau=config.autoencoder.noise_tau,
        l1_weight=config.loss.l1,
    )
    count = min(_PREVIEWED, len(source))
    shown = build.without_chance(config.data)
    examples = next(build.evaluation_batches(source, shown, batch_size=count))

    def reconstruct(params: Tree, buffers: Tree, frozen: Tree, images: Array) -> Array:
        return to_uint8(definition.merge(params, buffers, frozen)(to_float(images)))

    drawn = jax.jit(reconstruct)

    def preview(step: int, state: TrainState, frozen: Tree, writers: Sequence[Writer]) -> None:
        images = examples["images"]
        pictures = np.asarray(drawn(state.ema, state.buffers, frozen, images))
        for writer in writers:
            rows = grid(np.concatenate([images, pictures]), columns=count)
            writer.images(step, "reconstructions", rows)

    evaluation = None
    if config.evaluation.every:
        size = config.data.image_size
        evaluation = ReconstructionEvaluation(config.evaluation, size, reconstruct)
    return Job(
        build.STAGE1, config, source, initial_state, step_function, frozen, preview, evaluation
    )
