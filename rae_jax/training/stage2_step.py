"""One optimiser step of stage 2: flow matching on the latents of a frozen autoencoder."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rae_jax.diffusion.losses import FlowMatching
from rae_jax.layers.functional import Definition
from rae_jax.models.autoencoders.base import Autoencoder, LatentMoments, latent_moments
from rae_jax.models.denoisers.base import TransformerDenoiser
from rae_jax.ops.images import to_float
from rae_jax.sharding.constrain import constrain_batch
from rae_jax.training.accumulation import map_parts, mean_of_parts
from rae_jax.training.state import TrainState
from rae_jax.typing import Array, Float, Int, Key, Tree

_ENCODING = 2
"""Folded into the key of a step; 0 and 1 give the two keys that it is split into."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stage2Step:
    """Pure `(state, frozen, batch) -> (state, metrics)` (RAE, arXiv:2510.11690, section 4).

    Times, noise, dropped labels and, where they are random, latents are drawn from the state's
    key and step.

    Attributes:
        denoiser: Split into parameters and buffers.
        autoencoder: Split into one frozen tree; None where batches hold latents.
        transport: The loss, with path, prediction and distribution of times.
        optimizer: Update rule.
        schedule: Learning rate by step, for the log.
        ema_decay: Of the moving average, per step.
        label_dropout: Share of labels replaced by the null label.
        accumulation: Parts that a batch is worked off in.
    """

    denoiser: Definition[TransformerDenoiser]
    autoencoder: Definition[Any] | None
    transport: FlowMatching
    optimizer: optax.GradientTransformation
    schedule: Any
    ema_decay: float
    label_dropout: float
    accumulation: int = 1

    def __call__(
        self, state: TrainState, frozen: Tree, batch: Mapping[str, Array]
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step.

        Args:
            state: The denoiser's.
            frozen: The autoencoder's arrays.
            batch: `images` uint8 [B, H, W, 3], `labels` int32 [B]; or, in place of the images,
                `latents` [B, h, w, C] and, where they are random, their `deviations`.
        """
        key = jax.random.fold_in(state.key, state.step)
        index = jnp.arange(batch["labels"].shape[0])
        clean = self.moments(frozen, batch).draw(jax.random.fold_in(key, _ENCODING), index)

        def gradients_of(part: Mapping[str, Array], index: Array) -> tuple[Array, Tree]:
            def loss(params: Tree) -> Array:
                denoiser = self.denoiser.merge(params, state.buffers)
                return self.loss(denoiser, part["latents"], part["labels"], key, index)

            return jax.value_and_grad(loss)(state.params)

        rows = {"latents": clean, "labels": batch["labels"]}
        value, gradients = mean_of_parts(gradients_of, rows, self.accumulation)
        metrics = {
            "loss": value,
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": self.schedule(state.updates),
        }
        return state.updated(gradients, self.optimizer, self.ema_decay), metrics

    def moments(self, frozen: Tree, batch: Mapping[str, Array]) -> LatentMoments:
        """What the latents of a batch are drawn from."""
        if self.autoencoder is None:
            cached = LatentMoments(batch["latents"], batch.get("deviations"))
            return jax.tree.map(constrain_batch, cached)
        autoencoder: Autoencoder = self.autoencoder.merge(frozen)
        return map_parts(
            lambda images: latent_moments(autoencoder, to_float(images)),
            constrain_batch(batch["images"]),
            self.accumulation,
        )

    def loss(
        self,
        denoiser: TransformerDenoiser,
        clean_latents: Float[Array, "B h w C"],
        labels: Int[Array, " B"],
        key: Key[Array, ""],
        index: Int[Array, " B"],
    ) -> Float[Array, ""]:
        """Flow-matching loss of some rows of a batch, whose numbers address what is drawn."""
        label_key, loss_key = jax.random.split(key)
        if self.label_dropout > 0:
            if denoiser.null_label is None:
                raise ValueError("label dropout needs a denoiser with a null label")
            # Per sample, as times and noise are, so that they do not depend on the batch.
            keys = jax.vmap(jax.random.fold_in, (None, 0))(label_key, index)
            drop = functools.partial(jax.random.bernoulli, p=self.label_dropout)
            labels = jnp.where(jax.vmap(drop)(keys), denoiser.null_label, labels)

        def predict(noisy_latents: Array, t: Array) -> Array:
            return denoiser(noisy_latents, t, labels).prediction

        return self.transport.loss(predict, clean_latents, loss_key, index).mean()
