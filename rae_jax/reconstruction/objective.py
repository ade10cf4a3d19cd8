"""The losses of stage 1 put together: gradients for the decoder, gradients for the discriminator.

Which terms are on is a traced value: one compiled step serves all phases of a run, and a term that
is off is not computed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from rae_jax.ops.images import to_signed
from rae_jax.reconstruction import adversarial
from rae_jax.reconstruction.adaptive_weight import adaptive_weight, norm
from rae_jax.reconstruction.losses import l1_loss
from rae_jax.typing import Array, Float, Key, Tree

ImageLoss = Callable[[Array], Array]
"""Reconstructions, nominally in [0, 1] and not clipped -> mean loss."""

Metrics = dict[str, Array]

T = TypeVar("T")


@struct.dataclass
class Phases:
    """Which terms are on in a step; scalar booleans, traced or not.

    Attributes:
        perceptual: LPIPS in the decoder's loss.
        discriminator: Updates of the discriminator.
        adversarial: The discriminator's opinion in the decoder's loss.
    """

    # Any, not array types: the same class also holds shapes.
    perceptual: Any
    discriminator: Any
    adversarial: Any


@dataclasses.dataclass(frozen=True)
class PhaseStarts:
    """Finished steps from which on each term is on, see `Phases`."""

    perceptual: int = 0
    discriminator: int = 0
    adversarial: int = 0

    def at(self, step: Any) -> Phases:
        """Phases of the step that follows `step` finished ones."""
        return Phases(
            perceptual=step >= self.perceptual,
            discriminator=step >= self.discriminator,
            adversarial=step >= self.adversarial,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class DecoderLoss:
    """l1·L1 + perceptual·LPIPS + features·E + adversarial·w·G (RAE, arXiv:2510.11690, section 3).

    w is the adaptive weight of G, the loss that the discriminator gives, against all before it.

    It needs no pass of its own: both losses are differentiated by the reconstructions only, and
    the gradients by the last layer's kernel are one matrix product each, tokens^T times the
    gradient at that layer's output, since the compiler drops the rest of the backward passes that
    they are taken from. The backward pass through the decoder then runs once, on the weighted sum.
    Differentiating each loss by that kernel on its own, and then their sum by all parameters, goes
    back through LPIPS and discriminator twice.

    Attributes:
        l1: Factor of the L1 loss.
        perceptual: Factor of LPIPS.
        features: Factor of the encoder's feature loss.
        adversarial: Factor of the adversarial loss, besides the adaptive weight.
        largest_adaptive_weight: Upper bound of the adaptive weight.
    """

    l1: float = 1.0
    perceptual: float = 0.0
    features: float = 0.0
    adversarial: float = 0.0
    largest_adaptive_weight: float = 1e4

    def gradients(
        self,
        reconstruct: Callable[[Tree], Array],
        params: Tree,
        images: Float[Array, "B H W 3"],
        phases: Phases,
        *,
        last_kernel: Callable[[Tree], Array],
        perceptual_loss: ImageLoss | None = None,
        feature_loss: ImageLoss | None = None,
        adversarial_loss: ImageLoss | None = None,
    ) -> tuple[Tree, Metrics]:
        """Gradients by the decoder's parameters; to be called in a compiled function.

        Args:
            reconstruct: Images of parameters, nominally in [0, 1] and not clipped.
            params: The decoder's.
            images: In [0, 1].
            phases: What is on.
            last_kernel: Picks the kernel of the last layer from a tree like `params`.
            perceptual_loss: Left out if its factor is zero; so are the next two.
            feature_loss: See `losses.feature_loss`.
            adversarial_loss: See `adversarial.generator_loss`; includes the augmentation.

        Returns:
            Gradients, and by name: "loss", every term before its factor ("l1", "perceptual",
            "features", "adversarial"), "adaptive_weight", and the norms of both gradients by the
            last kernel ("last_layer_reconstruction", "last_layer_adversarial"). Terms that are
            off are zero.

        Raises:
            ValueError: A term with a factor has no function.
        """
        reconstructions, pullback = jax.vjp(reconstruct, params)
        terms = self._terms(reconstructions, images, phases, perceptual_loss, feature_loss)
        loss, gradient, metrics = terms
        if self.adversarial:
            value, slope = self._adversarial(reconstructions, phases, adversarial_loss)
            ours, theirs = (last_kernel(pullback(g)[0]) for g in (gradient, slope))
            factor, more = self._factor(ours, theirs, phases)
            loss, gradient = loss + factor * value, gradient + factor * slope
            metrics |= {"adversarial": value, **more}
        return pullback(gradient)[0], {"loss": loss, **metrics}

    def separate_gradients(
        self,
        reconstruct: Callable[[Tree], Array],
        params: Tree,
        images: Float[Array, "B H W 3"],
        phases: Phases,
        *,
        perceptual_loss: ImageLoss | None = None,
        feature_loss: ImageLoss | None = None,
        adversarial_loss: ImageLoss | None = None,
    ) -> tuple[tuple[Tree, Tree], Metrics]:
        """Gradients of one part of a batch, to be averaged over the parts and given to `joined`.

        The adaptive weight is known only after the last part, so the backward pass through the
        decoder runs twice in the adversarial phase: once for each side of the weight.

        Returns:
            Gradients by `params` of the adversarial loss and of the sum of all others (empty if
            the factor of the former is zero), and metrics: "loss", without the adversarial term,
            and every term before its factor.
        """
        reconstructions, pullback = jax.vjp(reconstruct, params)
        terms = self._terms(reconstructions, images, phases, perceptual_loss, feature_loss)
        loss, gradient, metrics = terms
        ours, theirs = pullback(gradient)[0], {}
        if self.adversarial:
            value, slope = self._adversarial(reconstructions, phases, adversarial_loss)
            theirs = cond(
                phases.adversarial,
                lambda slope: pullback(slope)[0],
                lambda slope: jax.tree.map(jnp.zeros_like, params),
                slope,
            )
            metrics |= {"adversarial": value}
        return (theirs, ours), {"loss": loss, **metrics}

    def joined(
        self,
        gradients: tuple[Tree, Tree],
        metrics: Metrics,
        phases: Phases,
        *,
        last_kernel: Callable[[Tree], Array],
    ) -> tuple[Tree, Metrics]:
        """What `gradients` gives for a whole batch, of the means of `separate_gradients`."""
        theirs, ours = gradients
        if not self.adversarial:
            return ours, metrics
        factor, more = self._factor(last_kernel(ours), last_kernel(theirs), phases)
        loss = metrics["loss"] + factor * metrics["adversarial"]
        total = jax.tree.map(lambda mine, other: mine + factor * other, ours, theirs)
        return total, {**metrics, "loss": loss, **more}

    def _terms(
        self,
        reconstructions: Array,
        images: Array,
        phases: Phases,
        perceptual_loss: ImageLoss | None,
        feature_loss: ImageLoss | None,
    ) -> tuple[Array, Array, Metrics]:
        """Weighted sum of all but the adversarial loss, its gradient by the images, every term."""
        l1, gradient = jax.value_and_grad(l1_loss)(reconstructions, images)
        loss, gradient, metrics = self.l1 * l1, self.l1 * gradient, {"l1": l1}
        for name, factor, term, is_on in (
            ("perceptual", self.perceptual, perceptual_loss, phases.perceptual),
            ("features", self.features, feature_loss, True),
        ):
            if factor:
                value, slope = _when(is_on, _required(name, term), reconstructions)
                loss, gradient = loss + factor * value, gradient + factor * slope
                metrics[name] = value
        return loss, gradient, metrics

    def _adversarial(
        self, reconstructions: Array, phases: Phases, loss: ImageLoss | None
    ) -> tuple[Array, Array]:
        return _when(phases.adversarial, _required("adversarial", loss), reconstructions)

    def _factor(self, ours: Array, theirs: Array, phases: Phases) -> tuple[Array, Metrics]:
        """Factor of the adversarial loss, of both gradients by the last kernel."""
        weight = adaptive_weight(ours, theirs, largest=self.largest_adaptive_weight)
        weight = jnp.where(phases.adversarial, weight, 0.0)
        return self.adversarial * weight, {
            "adaptive_weight": weight,
            "last_layer_reconstruction": norm(ours),
            "last_layer_adversarial": norm(theirs),
        }


def _required(name: str, term: ImageLoss | None) -> ImageLoss:
    if term is None:
        raise ValueError(f"the factor of the {name} loss is not zero, but no function computes it")
    return term


def _when(is_on: Any, loss: ImageLoss, images: Array) -> tuple[Array, Array]:
    """Value and gradient by `images`, or zeros at no cost."""

    def zeros(images: Array) -> tuple[Array, Array]:
        return jnp.zeros((), images.dtype), jnp.zeros_like(images)

    return cond(is_on, jax.value_and_grad(loss), zeros, images)


def cond(is_on: Any, when_on: Callable[..., T], when_off: Callable[..., T], *operands: Any) -> T:
    """`jax.lax.cond`, which leaves no trace of the other branch where `is_on` is a plain bool."""
    if isinstance(is_on, bool):
        return (when_on if is_on else when_off)(*operands)
    return jax.lax.cond(is_on, when_on, when_off, *operands)


def discriminator_inputs(
    reconstructions: Float[Array, "B H W 3"],
    images: Float[Array, "B H W 3"],
    key: Key[Array, ""],
    disguise: Callable[[Array, Array], Array],
) -> tuple[Float[Array, "B H W 3"], Float[Array, "B H W 3"]]:
    """What a discriminator learns from: reconstructions as they would be stored, and images.

    Args:
        reconstructions: Of the decoder as it is now, without noise; nominally in [0, 1].
        images: In [0, 1].
        key: Made and real images are disguised independently.
        disguise: `augment` of images in [-1, 1], with a key.

    Returns:
        Made and real images, around [-1, 1].
    """
    fake_key, real_key = jax.random.split(key)
    fake = disguise(adversarial.discretized(to_signed(reconstructions)), fake_key)
    return fake, disguise(to_signed(images), real_key)


def discriminator_gradients(
    classify: Callable[[Tree, Tree, Array], Array],
    next_vectors: Callable[[Tree, Tree], Tree],
    params: Tree,
    vectors: Tree,
    *,
    fake: Float[Array, "B H W 3"],
    real: Float[Array, "B H W 3"],
    loss: Callable[[Array, Array], Array],
) -> tuple[Tree, Tree, Metrics]:
    """Gradients by a discriminator's parameters.

    Made images are classified first, then real ones, each after a power iteration.

    Args:
        classify: (parameters, vectors, images) -> logits.
        next_vectors: (parameters, vectors) -> vectors after a power iteration.
        params: The discriminator's.
        vectors: Of its spectral norms.
        fake: See `discriminator_inputs`.
        real: See `discriminator_inputs`.
        loss: (logits_real, logits_fake) -> loss, see `adversarial`.

    Returns:
        Gradients, vectors, and by name: "discriminator_loss", "logits_real" and "logits_fake"
        (means) and "discriminator_accuracy".
    """
    first = next_vectors(params, vectors)
    second = next_vectors(params, first)

    def mean_loss(params: Tree) -> tuple[Array, tuple[Array, Array]]:
        logits = classify(params, second, real), classify(params, first, fake)
        return loss(*logits), logits

    (value, logits), gradients = jax.value_and_grad(mean_loss, has_aux=True)(params)
    logits_real, logits_fake = logits
    metrics = {
        "discriminator_loss": value,
        "logits_real": logits_real.mean(),
        "logits_fake": logits_fake.mean(),
        "discriminator_accuracy": adversarial.accuracy(logits_real, logits_fake),
    }
    return gradients, second, metrics
