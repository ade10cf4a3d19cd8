"""One optimiser step of stage 1: the decoder learns to undo the frozen encoder.

After it, where there is an adversarial loss, one of the discriminator.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rae_jax.layers.functional import Definition
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.auxiliary.dino_discriminator import DINODiscriminator
from rae_jax.models.auxiliary.lpips import LPIPS
from rae_jax.ops.augment import augment
from rae_jax.ops.images import to_float, to_signed
from rae_jax.reconstruction.adversarial import generator_loss
from rae_jax.reconstruction.latent_noise import add_latent_noise
from rae_jax.reconstruction.losses import feature_loss
from rae_jax.reconstruction.objective import (
    DecoderLoss,
    Metrics,
    Phases,
    PhaseStarts,
    cond,
    discriminator_gradients,
    discriminator_inputs,
)
from rae_jax.sharding.constrain import constrain_batch
from rae_jax.training.accumulation import map_parts, mean_of_parts
from rae_jax.training.state import DiscriminatorState, TrainState
from rae_jax.typing import Array, Float, Key, Tree

_DISGUISE = 2**32 - 1
"""Folded into the run's key for augmentations; no step, whose keys noise takes, has this number."""


@dataclasses.dataclass(frozen=True, eq=False)
class Adversary:
    """The discriminator's side of a step.

    Attributes:
        definition: Discriminator split into parameters of the heads, vectors of their spectral
            norms and frozen backbone.
        optimizer: Update rule of the heads.
        schedule: Learning rate by the number of the heads' updates, for the log.
        loss: (logits_real, logits_fake) -> loss.
        augment_probability: See `augment`.
        augment_cutout: See `augment`.
    """

    definition: Definition[DINODiscriminator]
    optimizer: optax.GradientTransformation
    schedule: Any
    loss: Callable[[Array, Array], Array]
    augment_probability: float
    augment_cutout: float

    def classify(
        self, params: Tree, vectors: Tree, frozen: Tree, images: Float[Array, "B H W 3"]
    ) -> Float[Array, "B L"]:
        """Logits of images in [-1, 1]."""
        return self.definition.merge(params, vectors, frozen["discriminator"])(images)

    def next_vectors(self, params: Tree, vectors: Tree, frozen: Tree) -> Tree:
        """Vectors after one power iteration."""
        return self.definition.merge(params, vectors, frozen["discriminator"]).next_vectors()

    def disguise(
        self, index: Array
    ) -> Callable[[Float[Array, "B H W 3"], Key[Array, ""]], Float[Array, "B H W 3"]]:
        """Augmentation of the images of these numbers."""
        return functools.partial(
            augment,
            probability=self.augment_probability,
            cutout=self.augment_cutout,
            index=index,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Stage1Step:
    """Pure `(state, frozen, batch) -> (state, metrics)` (RAE, arXiv:2510.11690, section 3).

    The decoder's loss compares decoder(encoder(images) + noise) with the images. The discriminator
    then learns to tell images from what the new decoder makes of features without noise, rounded
    to the levels of files. One compiled function serves all phases, and what is off costs nothing.

    Attributes:
        definition: Autoencoder split into decoder parameters, buffers and frozen encoder.
        optimizer: Update rule.
        schedule: Learning rate by the number of updates, for the log.
        ema_decay: Of the moving average, per step.
        noise_tau: Bound of the strength of the noise on the features.
        loss: Terms of the decoder's loss and their factors.
        phases: When terms are on.
        lpips: Split into one frozen tree; needed for the perceptual term.
        adversary: Needed for the adversarial term.
        accumulation: Parts that a batch is worked off in.
    """

    definition: Definition[AutoencoderRAE]
    optimizer: optax.GradientTransformation
    schedule: Any
    ema_decay: float
    noise_tau: float
    loss: DecoderLoss = DecoderLoss()
    phases: PhaseStarts = PhaseStarts()
    lpips: Definition[LPIPS] | None = None
    adversary: Adversary | None = None
    accumulation: int = 1

    def __call__(
        self, state: TrainState, frozen: Tree, batch: Mapping[str, Array]
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step.

        Args:
            state: The decoder's; an `AdversarialState` if there is an adversary.
            frozen: Arrays of the encoder and, as far as they are there, of `lpips` and of the
                discriminator's backbone, each under its name.
            batch: `images` uint8 [B, H, W, 3].
        """
        return self.in_phases(state, frozen, batch, self.phases.at(state.step))

    def in_phases(
        self, state: TrainState, frozen: Tree, batch: Mapping[str, Array], phases: Phases
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step in which given terms are on; plain bools leave out what is off."""
        images = constrain_batch(batch["images"])
        model = self.autoencoder(state.params, state.buffers, frozen)
        features = map_parts(lambda x: model.features(to_float(x)), images, self.accumulation)
        rows = {"images": images, "features": features}
        gradients, metrics = self._decoder_gradients(state, frozen, rows, phases)
        metrics |= {
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": self.schedule(state.updates),
        }
        after = state.updated(gradients, self.optimizer, self.ema_decay)
        if self.adversary is not None:
            judge, judged = self._judge(self.adversary, after, frozen, rows, phases)
            after, metrics = dataclasses.replace(after, discriminator=judge), metrics | judged
        return after, metrics

    def autoencoder(self, params: Tree, buffers: Tree, frozen: Tree) -> AutoencoderRAE:
        """The whole model; `frozen` may hold other networks too."""
        return self.definition.merge(params, buffers, {"encoder": frozen["encoder"]})

    def _decoder_gradients(
        self, state: Any, frozen: Tree, rows: Mapping[str, Array], phases: Phases
    ) -> tuple[Tree, Metrics]:
        loss = self.loss

        def arguments(part: Mapping[str, Array], index: Array) -> tuple[Any, dict[str, Any]]:
            images, features = to_float(part["images"]), part["features"]
            noisy = features
            if self.noise_tau > 0:
                key = jax.random.fold_in(state.key, state.step)
                noisy = add_latent_noise(features, key, self.noise_tau, index)

            def reconstruct(params: Tree) -> Float[Array, "B H W 3"]:
                return self.autoencoder(params, state.buffers, frozen).decode_features(noisy)

            terms = self._terms(state, frozen, images, features, index)
            return (reconstruct, state.params, images, phases), terms

        if self.accumulation == 1:
            given, terms = arguments(rows, jnp.arange(len(rows["images"])))
            return loss.gradients(*given, last_kernel=_last_kernel, **terms)

        def part_gradients(part: Mapping[str, Array], index: Array) -> tuple[Any, Metrics]:
            given, terms = arguments(part, index)
            return loss.separate_gradients(*given, **terms)

        means = mean_of_parts(part_gradients, rows, self.accumulation)
        return loss.joined(*means, phases, last_kernel=_last_kernel)

    def _terms(
        self,
        state: Any,
        frozen: Tree,
        images: Float[Array, "B H W 3"],
        features: Float[Array, "B h w C"],
        index: Array,
    ) -> dict[str, Callable[[Array], Array]]:
        """Losses of reconstructions, as far as they are asked for."""
        terms: dict[str, Callable[[Array], Array]] = {}
        if self.loss.perceptual and self.lpips is not None:
            lpips = self.lpips.merge(frozen["lpips"])
            terms["perceptual_loss"] = lambda made: lpips(to_signed(images), to_signed(made)).mean()
        if self.loss.features:
            model = self.autoencoder(state.params, state.buffers, frozen)
            terms["feature_loss"] = lambda made: feature_loss(model.features(made), features)
        if self.loss.adversarial and self.adversary is not None:
            adversary, judge = self.adversary, state.discriminator
            disguise, key = adversary.disguise(index), disguise_key(state.key, state.step, 0)
            terms["adversarial_loss"] = lambda made: generator_loss(
                adversary.classify(
                    judge.params, judge.vectors, frozen, disguise(to_signed(made), key)
                )
            )
        return terms

    def _judge(
        self,
        adversary: Adversary,
        state: Any,
        frozen: Tree,
        rows: Mapping[str, Array],
        phases: Phases,
    ) -> tuple[DiscriminatorState, Metrics]:
        """The discriminator after its update by what the new decoder makes, if it is time.

        Args:
            adversary: The discriminator.
            state: After the decoder's update.
            frozen: See `__call__`.
            rows: Images and features.
            phases: Of this step.
        """
        key = disguise_key(state.key, state.step - 1, 1)

        def classify(
            params: Tree, vectors: Tree, images: Float[Array, "B H W 3"]
        ) -> Float[Array, "B L"]:
            return adversary.classify(params, vectors, frozen, images)

        def next_vectors(params: Tree, vectors: Tree) -> Tree:
            return adversary.next_vectors(params, vectors, frozen)

        def update(
            judge: DiscriminatorState, rows: Mapping[str, Array]
        ) -> tuple[DiscriminatorState, Metrics]:
            def part_gradients(part: Mapping[str, Array], index: Array) -> tuple[Tree, Metrics]:
                model = self.autoencoder(state.params, state.buffers, frozen)
                made = model.decode_features(part["features"])
                fake, real = discriminator_inputs(
                    made, to_float(part["images"]), key, adversary.disguise(index)
                )
                gradients, _, metrics = discriminator_gradients(
                    classify,
                    next_vectors,
                    judge.params,
                    judge.vectors,
                    fake=fake,
                    real=real,
                    loss=adversary.loss,
                )
                return gradients, metrics

            gradients, metrics = mean_of_parts(part_gradients, rows, self.accumulation)
            metrics |= {
                "discriminator_gradient_norm": optax.tree.norm(gradients),
                "discriminator_learning_rate": adversary.schedule(judge.updates),
            }
            vectors = next_vectors(judge.params, next_vectors(judge.params, judge.vectors))
            return judge.updated(gradients, vectors, adversary.optimizer), metrics

        def keep(
            judge: DiscriminatorState, rows: Mapping[str, Array]
        ) -> tuple[DiscriminatorState, Metrics]:
            _, metrics = jax.eval_shape(update, judge, rows)
            return judge, {name: jnp.zeros(m.shape, m.dtype) for name, m in metrics.items()}

        return cond(phases.discriminator, update, keep, state.discriminator, rows)


def _last_kernel(tree: Tree) -> Array:
    return tree["decoder"]["prediction"]["kernel"]


def disguise_key(key: Key[Array, ""], step: Array, purpose: int) -> Key[Array, ""]:
    """Key of the augmentations in one of the two classifications of a step."""
    base = jax.random.fold_in(key, jnp.uint32(_DISGUISE))
    return jax.random.fold_in(jax.random.fold_in(base, step), purpose)
