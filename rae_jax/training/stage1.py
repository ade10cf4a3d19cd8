"""Stage 1: trains a decoder on a frozen encoder."""

import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx

from rae_jax import build
from rae_jax.build import judging
from rae_jax.configuration.schema import GANConfig, Stage1Config
from rae_jax.data.sources.base import Source
from rae_jax.layers.functional import Buffer, Frozen, abstract, split
from rae_jax.models.auxiliary.dino_discriminator import DINODiscriminator, SpectralVector
from rae_jax.models.compute import Compute
from rae_jax.models.decoders.vit_decoder import ViTDecoder
from rae_jax.monitoring.image_grids import grid
from rae_jax.monitoring.writers import Writer
from rae_jax.ops.images import to_float, to_uint8
from rae_jax.reconstruction.adversarial import DISCRIMINATOR_LOSSES
from rae_jax.reconstruction.objective import DecoderLoss, PhaseStarts
from rae_jax.training import run
from rae_jax.training.evaluation import ReconstructionEvaluation
from rae_jax.training.initialization import initial_decoder
from rae_jax.training.run import (
    DISCRIMINATOR,
    INITIALISATION,
    TRAINING,
    Job,
    addressed_key,
    configured_optimizer,
)
from rae_jax.training.stage1_step import Adversary, Stage1Step
from rae_jax.training.state import AdversarialState, DiscriminatorState, TrainState
from rae_jax.typing import Array, Tree

_PREVIEWED = 8


def train(config: Stage1Config, workdir: str | pathlib.Path) -> pathlib.Path:
    """Trains, or goes on with, the decoder of `config` in `workdir`; see `run.train`."""
    return run.train(build.STAGE1, make_job, config, workdir)


def make_job(config: Stage1Config) -> Job:
    """What stage 1 brings to a run.

    Raises:
        FileNotFoundError: Encoder, images or networks of the losses are not to be had.
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
    lpips = None
    if config.lpips.weight:
        lpips, frozen["lpips"] = split(judging.lpips(config.lpips, compute))
    gan = None
    if config.gan.weight:
        gan = _GAN(config, compute, to_steps)
        frozen["discriminator"] = gan.backbone

    def initial_state() -> TrainState:
        _, params, buffers = split(fresh_decoder(), nnx.Param, Buffer)
        key = addressed_key(config.seed, TRAINING)
        state = TrainState.create({"decoder": params}, {"decoder": buffers}, optimizer, key)
        return state if gan is None else AdversarialState.of(state, gan.initial_state())

    step_function = Stage1Step(
        definition,
        optimizer,
        schedule,
        ema_decay=config.ema_decay,
        noise_tau=config.autoencoder.noise_tau,
        loss=_loss(config),
        phases=_phases(config, to_steps),
        lpips=lpips,
        adversary=None if gan is None else gan.adversary,
        accumulation=config.gradient_accumulation,
    )

    def reconstruct(params: Tree, buffers: Tree, frozen: Tree, images: Array) -> Array:
        return to_uint8(step_function.autoencoder(params, buffers, frozen)(to_float(images)))

    evaluation = None
    if config.evaluation.every:
        size = config.data.image_size
        evaluation = ReconstructionEvaluation(config.evaluation, size, reconstruct)
    initial_weights = None
    if config.init_from:
        initial_weights = functools.partial(initial_decoder, config, abstract(fresh_decoder))
    return Job(
        build.STAGE1,
        config,
        source,
        initial_state,
        step_function,
        frozen,
        _preview(config, source, reconstruct),
        evaluation,
        initial_weights,
        step_function.phases.at,
    )


def _loss(config: Stage1Config) -> DecoderLoss:
    return DecoderLoss(
        l1=config.loss.l1,
        perceptual=config.lpips.weight,
        features=config.loss.features,
        adversarial=config.gan.weight,
        largest_adaptive_weight=config.gan.largest_adaptive_weight,
    )


def _phases(config: Stage1Config, to_steps: Callable[[str], int]) -> PhaseStarts:
    return PhaseStarts(
        perceptual=to_steps(config.lpips.start),
        discriminator=to_steps(config.gan.discriminator_start),
        adversarial=to_steps(config.gan.start),
    )


def _preview(
    config: Stage1Config, source: Source, reconstruct: Callable[[Tree, Tree, Tree, Array], Array]
) -> run.Preview:
    """Draws the first images over their reconstructions by the averaged weights."""
    count = min(_PREVIEWED, len(source))
    shown = build.without_chance(config.data)
    images = next(build.evaluation_batches(source, shown, batch_size=count))["images"]
    drawn = jax.jit(reconstruct)

    def preview(step: int, state: TrainState, frozen: Tree, writers: Sequence[Writer]) -> None:
        pictures = np.asarray(drawn(state.ema, state.buffers, frozen, images))
        for writer in writers:
            rows = grid(np.concatenate([images, pictures]), columns=count)
            writer.images(step, "reconstructions", rows)

    return preview


class _GAN:
    """The adversary of a run.

    Attributes:
        adversary: Its side of a step.
        backbone: Arrays of its frozen backbone.
    """

    def __init__(self, config: Stage1Config, compute: Compute, to_steps: Callable[[str], int]):
        self._config, self._compute = config, compute
        settings = config.gan
        self._network = judging.discriminator_backbone(settings.discriminator, compute)
        optimizer, schedule = configured_optimizer(
            settings.optimizer,
            settings.schedule,
            to_steps,
            first_step=_first_step(settings, to_steps),
        )
        filters = nnx.Param, SpectralVector, Frozen
        definition, _, _, self.backbone = split(self._fresh(), *filters)
        self.adversary = Adversary(
            definition,
            optimizer,
            schedule,
            loss=DISCRIMINATOR_LOSSES[settings.loss],
            augment_probability=settings.augment_probability,
            augment_cutout=settings.augment_cutout,
        )

    def initial_state(self) -> DiscriminatorState:
        """Of fresh heads."""
        _, params, vectors, _ = split(self._fresh(), nnx.Param, SpectralVector, Frozen)
        return DiscriminatorState.create(params, vectors, self.adversary.optimizer)

    def _fresh(self) -> DINODiscriminator:
        rngs = nnx.Rngs(addressed_key(self._config.seed, DISCRIMINATOR))
        settings = self._config.gan.discriminator
        return judging.discriminator(settings, self._network, self._compute, rngs=rngs)


def _first_step(settings: GANConfig, to_steps: Callable[[str], int]) -> int:
    """Time of the discriminator's schedule in its first update."""
    return to_steps(settings.discriminator_start) if settings.schedule_by == "step" else 0
