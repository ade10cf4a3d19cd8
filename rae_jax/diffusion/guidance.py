"""Drifts from denoisers, with or without guidance.

A guided velocity is reference + scale * (conditional - reference). The reference is evaluated only
where it matters: inside the interval, and where some scale is not 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rae_jax.diffusion.ode import Drift
from rae_jax.diffusion.paths import spread
from rae_jax.typing import Array, Float, Int

Velocity = Callable[[Array, Array, Array], Array]
"""(noisy latents [B, h, w, C], t [B], labels [B]) -> velocity [B, h, w, C]."""

Scale = float | Float[Array, ""] | Float[Array, " B"]
"""One scale for all samples, or one per sample."""


def unguided(velocity: Velocity, labels: Int[Array, " B"]) -> Drift:
    """Drift towards the given labels."""

    def drift(latents: Array, t: Array) -> Array:
        return velocity(latents, jnp.broadcast_to(t, labels.shape), labels)

    return drift


def classifier_free(
    velocity: Velocity,
    labels: Int[Array, " B"],
    null_label: int,
    *,
    scale: Scale,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Drift:
    """Drift away from what the same denoiser says without a label (arXiv:2207.12598).

    Args:
        velocity: The denoiser.
        labels: Classes to draw.
        null_label: Label that stands for none.
        scale: 1 is no guidance.
        interval: Closed range of t in which guidance acts (arXiv:2404.07724).
    """
    nothing = unguided(velocity, jnp.full_like(labels, null_label))
    return _guided(unguided(velocity, labels), nothing, scale, interval)


def autoguidance(
    velocity: Velocity,
    guide: Velocity,
    labels: Int[Array, " B"],
    *,
    scale: Scale,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Drift:
    """Drift away from what a weaker denoiser says of the same labels (arXiv:2406.02507).

    Args:
        velocity: The denoiser.
        guide: The weaker denoiser.
        labels: Classes to draw.
        scale: 1 is no guidance.
        interval: Closed range of t in which guidance acts.
    """
    return _guided(unguided(velocity, labels), unguided(guide, labels), scale, interval)


def _guided(
    conditional: Drift, reference: Drift, scale: Scale, interval: tuple[float, float]
) -> Drift:
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"the guidance interval must satisfy 0 <= low <= high <= 1, got {interval}"
        )
    if isinstance(scale, (int, float)) and scale == 1:
        return conditional
    scale = jnp.asarray(scale, jnp.float32)

    def drift(latents: Array, t: Array) -> Array:
        with_label = conditional(latents, t)

        def guided() -> Array:
            other = reference(latents, t)
            return other + spread(scale, other) * (with_label - other)

        matters = (low <= t) & (t <= high) & jnp.any(scale != 1)
        return jax.lax.cond(matters, guided, lambda: with_label)

    return drift
