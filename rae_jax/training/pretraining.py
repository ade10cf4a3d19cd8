"""Trains a small MAE encoder from scratch and writes it as a Hugging Face folder."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import optax
from flax import nnx

from rae_jax import build
from rae_jax.configuration.schema import PretrainingConfig
from rae_jax.files import WORK_FOLDER, local_path
from rae_jax.layers.functional import Buffer, Definition, abstract, split
from rae_jax.models.auxiliary.masked_autoencoder import MaskedAutoencoder
from rae_jax.models.encoders.mae import MAEConfig, MAEEncoder
from rae_jax.ops.images import normalize, to_float
from rae_jax.sharding.constrain import constrain_batch
from rae_jax.training import run
from rae_jax.training.keys import INITIALISATION, TRAINING, addressed_key
from rae_jax.training.optimizers import configured_optimizer
from rae_jax.training.run import Job
from rae_jax.training.state import TrainState
from rae_jax.typing import Array, Tree
from rae_jax.weights.pretrained import Preprocessing, save_encoder

KIND = "pretraining"


def train(config: PretrainingConfig, workdir: str | pathlib.Path) -> pathlib.Path:
    """Trains, or goes on, in `workdir`, then writes the averaged encoder to `workdir/encoder`.

    Returns:
        The encoder's folder, as `load_encoder` reads it.
    """
    folder = local_path(workdir, WORK_FOLDER).absolute()
    run.train(KIND, make_job, config, folder)
    definition, params, buffers = split(abstract(lambda: _model(config)), nnx.Param, Buffer)
    _, *trees = build.restore_model(str(folder), params, buffers)
    model = definition.merge(*trees)
    save_encoder(
        folder / "encoder", model.encoder, Preprocessing(config.image_mean, config.image_std)
    )
    return folder / "encoder"


def make_job(config: PretrainingConfig) -> Job:
    """What masked pretraining brings to a run."""
    source = build.source(config.data)
    to_steps = build.durations(len(source), config.global_batch_size)
    optimizer, schedule = configured_optimizer(config.optimizer, config.schedule, to_steps)
    definition, _, _ = split(abstract(lambda: _model(config)), nnx.Param, Buffer)

    def initial_state() -> TrainState:
        _, params, buffers = split(_model(config), nnx.Param, Buffer)
        return TrainState.create(params, buffers, optimizer, addressed_key(config.seed, TRAINING))

    step = PretrainingStep(
        definition,
        optimizer,
        schedule,
        ema_decay=config.ema_decay,
        image_mean=config.image_mean,
        image_std=config.image_std,
    )
    return Job(KIND, config, source, initial_state, step, frozen={})


def _model(config: PretrainingConfig) -> MaskedAutoencoder:
    rngs = nnx.Rngs(addressed_key(config.seed, INITIALISATION))
    compute = build.Compute.of(config).arguments
    sizes = MAEConfig(
        hidden_size=config.encoder.hidden_size,
        depth=config.encoder.depth,
        num_heads=config.encoder.num_heads,
        intermediate_size=4 * config.encoder.hidden_size,
        patch_size=config.patch_size,
        image_size=config.data.image_size,
    )
    return MaskedAutoencoder(
        MAEEncoder(sizes, **compute, rngs=rngs),
        decoder_hidden_size=config.decoder.hidden_size,
        decoder_depth=config.decoder.depth,
        decoder_num_heads=config.decoder.num_heads,
        mask_ratio=config.mask_ratio,
        dtype=compute["dtype"],
        rngs=rngs,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainingStep:
    """Pure `(state, frozen, batch) -> (state, metrics)` of masked reconstruction.

    Attributes:
        definition: The masked autoencoder, split into parameters and buffers.
        optimizer: Update rule.
        schedule: Learning rate by step, for the log.
        ema_decay: Of the moving average, per step.
        image_mean: Mean of the pixels per channel.
        image_std: Deviation of the pixels per channel.
    """

    definition: Definition[MaskedAutoencoder]
    optimizer: optax.GradientTransformation
    schedule: Any
    ema_decay: float
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    def __call__(
        self, state: TrainState, frozen: Tree, batch: Mapping[str, Array]
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step on `batch["images"]`, uint8 [B, H, W, 3]."""
        del frozen
        images = constrain_batch(to_float(batch["images"]))
        pixels = normalize(images, self.image_mean, self.image_std)
        key = jax.random.fold_in(state.key, state.step)

        def loss(params: Tree) -> Array:
            return self.definition.merge(params, state.buffers).loss(pixels, key)

        value, gradients = jax.value_and_grad(loss)(state.params)
        metrics = {
            "loss": value,
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": self.schedule(state.step),
        }
        return state.updated(gradients, self.optimizer, self.ema_decay), metrics
