"""Losses between decoder and discriminator; logits are larger for what looks real."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from rae_jax.typing import Array, Float

Logits = Float[Array, "..."]

DiscriminatorLoss = Literal["hinge", "vanilla"]


def hinge_discriminator_loss(logits_real: Logits, logits_fake: Logits) -> Float[Array, ""]:
    """Mean of relu(1 - real) and relu(1 + fake) (Lim & Ye 2017, arXiv:1705.02894)."""
    real, fake = _float32(logits_real), _float32(logits_fake)
    return 0.5 * (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake)))


def vanilla_discriminator_loss(logits_real: Logits, logits_fake: Logits) -> Float[Array, ""]:
    """Mean of the two cross entropies (Goodfellow 2014, arXiv:1406.2661)."""
    real, fake = _float32(logits_real), _float32(logits_fake)
    return 0.5 * (jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake)))


DISCRIMINATOR_LOSSES: dict[DiscriminatorLoss, Callable[[Array, Array], Array]] = {
    "hinge": hinge_discriminator_loss,
    "vanilla": vanilla_discriminator_loss,
}
"""Of (logits_real, logits_fake), by name."""


def generator_loss(logits_fake: Logits) -> Float[Array, ""]:
    """Minus the mean logit of made images."""
    return -jnp.mean(_float32(logits_fake))


def accuracy(logits_real: Logits, logits_fake: Logits) -> Float[Array, ""]:
    """Share of places where the real image has the larger logit."""
    return jnp.mean((logits_real > logits_fake).astype(jnp.float32))


def discretized(images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Images in [-1, 1] clipped and rounded to 256 levels, as those that are read from files.

    Otherwise the discriminator could tell made images by their levels alone. There is no gradient.
    """
    levels = jnp.round((jnp.clip(images, -1, 1) + 1) * 127.5)
    return jax.lax.stop_gradient(levels / 127.5 - 1)


def _float32(logits: Array) -> Array:
    return logits.astype(jnp.float32)
