"""Drifts from denoisers, unguided and guided.

Nothing is computed that is not used: outside the guidance interval, and at scale 1, only the
conditional prediction is evaluated.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rae_jax.diffusion.ode import Drift
from rae_jax.typing import Array, Float, Int

Predict = Callable[[Array, Array, Array], Array]
"""(noisy latents [B, h, w, C], t [B], labels [B]) -> velocity."""


def unguided(predict: Predict, labels: Int[Array, " B"]) -> Drift:
    """The conditional velocity."""

    def drift(latents: Array, t: Array) -> Array:
        return predict(latents, jnp.broadcast_to(t, labels.shape), labels)

    return drift


def classifier_free(
    predict: Predict,
    labels: Int[Array, " B"],
    null_label: int,
    *,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Drift:
    """unconditional + scale * (conditional - unconditional) for t in the closed interval.

    Classifier-free guidance (arXiv:2207.12598) with an interval (arXiv:2404.07724). Both
    predictions are one batch of twice the size.
    """
    conditional = unguided(predict, labels)
    if scale == 1:
        return conditional
    both = jnp.concatenate([labels, jnp.full_like(labels, null_label)])

    def guided(latents: Array, t: Array) -> Array:
        velocity = predict(
            jnp.concatenate([latents, latents]), jnp.broadcast_to(t, both.shape), both
        )
        with_label, without = jnp.split(velocity, 2)
        return without + scale * (with_label - without)

    return _within(interval, guided, conditional)


def autoguidance(
    predict: Predict,
    guide: Predict,
    labels: Int[Array, " B"],
    *,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Drift:
    """guide + scale * (main - guide) for t in the closed interval (arXiv:2406.02507).

    `guide` is a weaker model of the same kind; both see the labels.
    """
    main = unguided(predict, labels)
    if scale == 1:
        return main
    weak = unguided(guide, labels)

    def guided(latents: Array, t: Array) -> Array:
        other = weak(latents, t)
        return other + scale * (main(latents, t) - other)

    return _within(interval, guided, main)


def _within(interval: tuple[float, float], guided: Drift, plain: Drift) -> Drift:
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(f"the guidance interval must lie in [0, 1], low first, got {interval}")
    if low <= 0 and high >= 1:
        return guided

    def drift(latents: Float[Array, "B ..."], t: Float[Array, ""]) -> Float[Array, "B ..."]:
        return jax.lax.cond((t >= low) & (t <= high), guided, plain, latents, t)

    return drift
