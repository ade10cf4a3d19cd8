"""Stage 2: trains a denoiser on the latents of a frozen autoencoder."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from rae_jax import build
from rae_jax.configuration.schema import (
    CACHED_LATENTS,
    GuidanceConfig,
    SamplerConfig,
    Stage2Config,
)
from rae_jax.data.sources.base import LabelledSource
from rae_jax.files import AnyPath
from rae_jax.layers.functional import Buffer, split
from rae_jax.models.compute import Compute
from rae_jax.models.denoisers.base import TransformerDenoiser
from rae_jax.monitoring.image_grids import grid
from rae_jax.monitoring.writers import Writer
from rae_jax.sampling.generate import Generator
from rae_jax.sharding.processes import fetched
from rae_jax.training import run
from rae_jax.training.evaluation import SampleEvaluation
from rae_jax.training.initialization import initial_denoiser
from rae_jax.training.keys import INITIALISATION, PREVIEWS, TRAINING, addressed_key
from rae_jax.training.optimizers import configured_optimizer
from rae_jax.training.run import Job, Preview, Program
from rae_jax.training.stage2_step import Stage2Step
from rae_jax.training.state import TrainState
from rae_jax.typing import Tree

_PREVIEWED = 16
_UNGUIDED = GuidanceConfig()


def train(config: Stage2Config, workdir: str | AnyPath) -> AnyPath:
    """Trains, or goes on with, the denoiser of `config` in `workdir`; see `run.train`."""
    return run.train(build.STAGE2, make_job, config, workdir)


def make_job(config: Stage2Config) -> Job:
    """What stage 2 brings to a run.

    Raises:
        FileNotFoundError: Encoder, decoder, statistics, images or latents are not to be had.
        ValueError: Settings or files do not fit together.
    """
    latents = _latents(config, build.Compute.of(config))
    program = make_program(
        config,
        latents.shape,
        None if latents.cached else latents.autoencoder,
        latents.frozen,
        num_records=len(latents.source),
    )
    step: Stage2Step = program.step

    def generator(settings: SamplerConfig, guidance: GuidanceConfig = _UNGUIDED) -> Generator:
        sampler = build.sampler(step.transport, latents.shape, settings, guidance)
        return Generator(step.denoiser, latents.autoencoder, sampler)

    initial_weights = None
    if config.init_from:
        definition, params, buffers = build.denoiser_shapes(config, latents.shape)
        empty = definition.merge(params, buffers)
        initial_weights = functools.partial(initial_denoiser, config, empty)
    return Job(
        build.STAGE2,
        config,
        latents.source,
        program.initial_state,
        step,
        program.frozen,
        _preview(config, generator) if build.has_decoder(config.autoencoder) else None,
        _evaluation(config, generator),
        initial_weights,
        encoded_by=latents.encoded_by,
    )


def make_program(
    config: Stage2Config,
    latent_shape: tuple[int, int, int],
    autoencoder: Any,
    frozen: Tree,
    *,
    num_records: int,
) -> Program:
    """What stage 2 computes; shapes in place of the frozen arrays will do.

    Args:
        config: Of the run.
        latent_shape: (h, w, C) of the latents.
        autoencoder: Definition of what encodes images; None where batches hold latents.
        frozen: Its arrays.
        num_records: Images in an epoch.

    Raises:
        ValueError: Settings do not fit together.
    """
    compute = build.Compute.of(config)
    to_steps = build.durations(num_records, config.global_batch_size)
    optimizer, schedule = configured_optimizer(config.optimizer, config.schedule, to_steps)

    def fresh_denoiser() -> TransformerDenoiser:
        rngs = nnx.Rngs(addressed_key(config.seed, INITIALISATION))
        return build.denoiser(
            config.denoiser,
            latent_shape,
            compute,
            has_null_label=config.label_dropout > 0,
            rngs=rngs,
        )

    definition, _, _ = build.denoiser_shapes(config, latent_shape)

    def initial_state() -> TrainState:
        _, params, buffers = split(fresh_denoiser(), nnx.Param, Buffer)
        key = addressed_key(config.seed, TRAINING)
        return TrainState.create(params, buffers, optimizer, key)

    step = Stage2Step(
        definition,
        autoencoder,
        build.flow_matching(config.transport, latent_shape),
        optimizer,
        schedule,
        ema_decay=config.ema_decay,
        label_dropout=config.label_dropout,
        accumulation=config.gradient_accumulation,
    )
    return Program(initial_state, step, frozen)


@dataclasses.dataclass(frozen=True, eq=False)
class _Latents:
    """What the denoiser learns from.

    Attributes:
        source: Images or cached latents.
        shape: (h, w, C) of the latents.
        autoencoder: Definition that encodes images and decodes samples; None where neither is
            asked for.
        frozen: Its arrays.
        encoded_by: Fingerprints of what made the cached latents; empty for images.
    """

    source: LabelledSource
    shape: tuple[int, int, int]
    autoencoder: Any
    frozen: Tree
    encoded_by: Mapping[str, str]

    @property
    def cached(self) -> bool:
        return bool(self.encoded_by)


def _latents(config: Stage2Config, compute: Compute) -> _Latents:
    if config.data.source != CACHED_LATENTS:
        source = build.source(config.data)
        build.require_classes(source, config.denoiser)
        autoencoder = build.pretrained_autoencoder(config.autoencoder, compute)
        shape = autoencoder.latent_shape(config.data.image_size)
        definition, frozen = split(autoencoder)
        return _Latents(source, shape, definition, frozen, encoded_by={})
    cached = build.cached_latents(config.data)
    build.require_classes(cached, config.denoiser)
    autoencoder, definition, frozen = None, None, {}
    # Only to decode samples: a run that shows none does without.
    if build.has_decoder(config.autoencoder):
        autoencoder = build.pretrained_autoencoder(config.autoencoder, compute)
        definition, frozen = split(autoencoder)
    build.require_same_encoding(cached, config, autoencoder)
    manifest = cached.manifest
    return _Latents(cached, manifest.latent_shape, definition, frozen, manifest.fingerprints)


def _preview(config: Stage2Config, generator: Callable[..., Generator]) -> Preview:
    index = np.arange(_PREVIEWED, dtype=np.int32)
    labels = (index % config.denoiser.num_classes).astype(np.int32)
    generate = {"samples": jax.jit(generator(SamplerConfig()))}
    if config.preview_guidance != _UNGUIDED:
        guided = generator(SamplerConfig(), config.preview_guidance)
        generate["guided_samples"] = jax.jit(guided)
    key = addressed_key(config.seed, PREVIEWS)

    def preview(step: int, state: TrainState, frozen: Tree, writers: Sequence[Writer]) -> None:
        weights = {"denoiser": (state.ema, state.buffers)}
        for name, function in generate.items():
            images = function(weights, frozen, key, index, labels)
            picture = grid(fetched(images), columns=8)
            for writer in writers:
                writer.images(step, name, picture)

    return preview


def _evaluation(
    config: Stage2Config, generator: Callable[[SamplerConfig, GuidanceConfig], Generator]
) -> SampleEvaluation | None:
    settings = config.evaluation
    if not settings.every:
        return None
    if not build.has_decoder(config.autoencoder):
        raise ValueError(
            "evaluation scores images, but the autoencoder has no decoder; set "
            "autoencoder.checkpoint to a stage-1 run, or evaluation.every to ''"
        )
    generate = generator(settings.sampler, settings.guidance)
    return SampleEvaluation(settings, config.denoiser.num_classes, generate)
