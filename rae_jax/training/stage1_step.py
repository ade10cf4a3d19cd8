"""One optimiser step of stage 1: the decoder learns to undo the frozen encoder."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import optax

from rae_jax.layers.functional import Definition
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.ops.images import to_float
from rae_jax.reconstruction.latent_noise import add_latent_noise
from rae_jax.reconstruction.losses import l1_loss
from rae_jax.sharding.constrain import constrain_batch
from rae_jax.training.state import TrainState
from rae_jax.typing import Array, Tree


@dataclasses.dataclass(frozen=True, eq=False)
class Stage1Step:
    """Pure `(state, frozen, batch) -> (state, metrics)` (RAE, arXiv:2510.11690, section 3).

    Loss: l1_weight * mean |decoder(encoder(images) + noise) - images|.

    Attributes:
        definition: Autoencoder split into decoder parameters, buffers and frozen encoder.
        optimizer: Update rule.
        schedule: Learning rate by step, for the log.
        ema_decay: Of the moving average, per step.
        noise_tau: Bound of the strength of the noise on the features.
        l1_weight: Factor of the L1 loss.
    """

    definition: Definition[AutoencoderRAE]
    optimizer: optax.GradientTransformation
    schedule: Any
    ema_decay: float
    noise_tau: float
    l1_weight: float

    def __call__(
        self, state: TrainState, frozen: Tree, batch: Mapping[str, Array]
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step.

        Args:
            state: The decoder's.
            frozen: The encoder's arrays.
            batch: `images` uint8 [B, H, W, 3].
        """
        images = constrain_batch(to_float(batch["images"]))
        features = self.definition.merge(state.params, state.buffers, frozen).features(images)
        if self.noise_tau > 0:
            key = jax.random.fold_in(state.key, state.step)
            features = add_latent_noise(features, key, self.noise_tau)

        def loss(params: Tree) -> tuple[Array, dict[str, Array]]:
            model = self.definition.merge(params, state.buffers, frozen)
            l1 = l1_loss(model.decode_features(features), images)
            return self.l1_weight * l1, {"l1": l1}

        (value, parts), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        metrics = {
            "loss": value,
            **parts,
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": self.schedule(state.step),
        }
        return state.updated(gradients, self.optimizer, self.ema_decay), metrics
