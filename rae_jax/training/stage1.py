"""Stage 1: trains a decoder on a frozen encoder."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx

from rae_jax import build
from rae_jax.build import judging
from rae_jax.configuration.schema import GANConfig, Stage1Config
from rae_jax.data.sources.base import Source
from rae_jax.files import AnyPath
from rae_jax.layers.functional import Buffer, Frozen, abstract, split
from rae_jax.models.auxiliary.dino_discriminator import DINO, DINODiscriminator, SpectralVector
from rae_jax.models.auxiliary.lpips import LPIPS
from rae_jax.models.decoders.vit_decoder import ViTDecoder
from rae_jax.monitoring.image_grids import grid
from rae_jax.monitoring.writers import Writer
from rae_jax.ops.images import to_float, to_uint8
from rae_jax.reconstruction.adversarial import DISCRIMINATOR_LOSSES
from rae_jax.reconstruction.objective import DecoderLoss, PhaseStarts
from rae_jax.sharding.processes import fetched
from rae_jax.training import run
from rae_jax.training.evaluation import ReconstructionEvaluation
from rae_jax.training.initialization import initial_decoder
from rae_jax.training.keys import DISCRIMINATOR, INITIALISATION, TRAINING, addressed_key
from rae_jax.training.optimizers import configured_optimizer
from rae_jax.training.run import Job, Program
from rae_jax.training.stage1_step import Adversary, Stage1Step
from rae_jax.training.state import AdversarialState, DiscriminatorState, TrainState
from rae_jax.typing import Array, Tree

_PREVIEWED = 8


def train(config: Stage1Config, workdir: str | AnyPath) -> AnyPath:
    """Trains, or goes on with, the decoder of `config` in `workdir`; see `run.train`."""
    return run.train(build.STAGE1, make_job, config, workdir)


def make_job(config: Stage1Config) -> Job:
    """What stage 1 brings to a run.

    Raises:
        FileNotFoundError: Encoder, images or networks of the losses are not to be had.
        ValueError: Settings or files do not fit together.
    """
    source = build.source(config.data)
    models = _load(config)
    program = make_program(config, models, num_records=len(source))
    step: Stage1Step = program.step

    def reconstruct(params: Tree, buffers: Tree, frozen: Tree, images: Array) -> Array:
        return to_uint8(step.autoencoder(params, buffers, frozen)(to_float(images)))

    evaluation = None
    if config.evaluation.every:
        size = config.data.image_size
        evaluation = ReconstructionEvaluation(config.evaluation, size, reconstruct)
    initial_weights = None
    if config.init_from:
        decoder = abstract(lambda: _fresh_decoder(config, models.encoder))
        initial_weights = functools.partial(initial_decoder, config, decoder)
    return Job(
        build.STAGE1,
        config,
        source,
        program.initial_state,
        step,
        program.frozen,
        _preview(config, source, reconstruct),
        evaluation,
        initial_weights,
        step.phases.at,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Models:
    """The frozen networks of stage 1; shapes in place of their arrays will do.

    Attributes:
        encoder: What the decoder is trained to undo.
        lpips: Of the perceptual loss; None without.
        discriminator: Backbone of the discriminator; None without.
    """

    encoder: build.LoadedEncoder
    lpips: LPIPS | None
    discriminator: DINO | None


def _load(config: Stage1Config) -> Models:
    compute = build.Compute.of(config)
    discriminator = config.gan.discriminator
    return Models(
        build.encoder(config.autoencoder, compute),
        judging.lpips(config.lpips, compute) if config.lpips.weight else None,
        judging.discriminator_backbone(discriminator, compute) if config.gan.weight else None,
    )


def make_program(config: Stage1Config, models: Models, *, num_records: int) -> Program:
    """What stage 1 computes.

    Args:
        config: Of the run.
        models: That it asks for.
        num_records: Images in an epoch.

    Raises:
        ValueError: Settings do not fit together.
    """
    to_steps = build.durations(num_records, config.global_batch_size)
    optimizer, schedule = configured_optimizer(config.optimizer, config.schedule, to_steps)
    build.require_image_size(config.autoencoder, models.encoder, config.data)
    fresh_decoder = functools.partial(_fresh_decoder, config, models.encoder)
    autoencoder = build.autoencoder(config.autoencoder, models.encoder, abstract(fresh_decoder))
    definition, _, _, frozen = split(autoencoder, nnx.Param, Buffer, Frozen)
    lpips = None
    if models.lpips is not None:
        lpips, frozen["lpips"] = split(models.lpips)
    gan = None
    if models.discriminator is not None:
        gan = _GAN(config, models.discriminator, to_steps)
        frozen["discriminator"] = gan.backbone

    def initial_state() -> TrainState:
        _, params, buffers = split(fresh_decoder(), nnx.Param, Buffer)
        key = addressed_key(config.seed, TRAINING)
        state = TrainState.create({"decoder": params}, {"decoder": buffers}, optimizer, key)
        return state if gan is None else AdversarialState.of(state, gan.initial_state())

    step = Stage1Step(
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
    return Program(initial_state, step, frozen)


def _fresh_decoder(config: Stage1Config, encoder: build.LoadedEncoder) -> ViTDecoder:
    rngs = nnx.Rngs(addressed_key(config.seed, INITIALISATION))
    return build.decoder(config.autoencoder, encoder, build.Compute.of(config), rngs=rngs)


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
        pictures = fetched(drawn(state.ema, state.buffers, frozen, images))
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

    def __init__(self, config: Stage1Config, network: DINO, to_steps: Callable[[str], int]):
        self._config, self._network = config, network
        settings = config.gan
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
        compute = build.Compute.of(self._config)
        return judging.discriminator(settings, self._network, compute, rngs=rngs)


def _first_step(settings: GANConfig, to_steps: Callable[[str], int]) -> int:
    """Time of the discriminator's schedule in its first update."""
    return to_steps(settings.discriminator_start) if settings.schedule_by == "step" else 0
