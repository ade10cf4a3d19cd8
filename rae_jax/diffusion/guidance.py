"""Guided predictions: reference + scale * (conditional - reference).

The reference is evaluated only where it matters: inside the interval, and where some scale is not
1. As conversions between predictions are affine, it does not matter which of them is guided.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from rae_jax.diffusion.ode import Drift
from rae_jax.diffusion.paths import spread
from rae_jax.typing import Array, Bool, Float, Int

Network = Callable[[Array, Array, Array], Array]
"""(noisy latents [B, h, w, C], t [B], labels [B]) -> prediction [B, h, w, C]."""

Scale = float | Float[Array, ""] | Float[Array, " B"]
"""One scale for all samples, or one per sample."""

Method = Literal["none", "classifier_free", "autoguidance"]


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Away from what a worse prediction says.

    Attributes:
        method: "none"; "classifier_free": away from the same denoiser without a label
            (arXiv:2207.12598); "autoguidance": away from a weaker denoiser (arXiv:2406.02507).
        scale: 1 is no guidance.
        interval: Closed range of t in which guidance acts (arXiv:2404.07724).
    """

    method: str = "none"
    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Rejects an unknown method and an interval that is none."""
        if self.method not in get_args(Method):
            raise ValueError(
                f"guidance method must be one of {get_args(Method)}, got {self.method!r}"
            )
        require_interval(self.interval)


def require_interval(interval: tuple[float, float]) -> None:
    """Raises ValueError unless it is a closed range within [0, 1]."""
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"the guidance interval must satisfy 0 <= low <= high <= 1, got {interval}"
        )


def acts(t: Float[Array, "..."], scale: Scale, interval: tuple[float, float]) -> Bool[Array, "..."]:
    """Whether guidance changes anything: t lies in the closed interval, and the scale is not 1."""
    low, high = interval
    return (low <= t) & (t <= high) & (jnp.asarray(scale, jnp.float32) != 1)


def guided(
    conditional: Drift,
    reference: Drift,
    *,
    scale: Scale,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Drift:
    """Function of (latents, t) that moves from the reference's values past the conditional ones.

    Args:
        conditional: What is wanted.
        reference: What to move away from; evaluated only if it changes some sample.
        scale: 1 is no guidance.
        interval: Closed range of t in which guidance acts.

    Raises:
        ValueError: The interval is not a range within [0, 1].
    """
    require_interval(interval)
    if isinstance(scale, (int, float)) and scale == 1:
        return conditional

    def values(latents: Array, t: Array) -> Array:
        wanted = conditional(latents, t)
        where = acts(t, scale, interval)

        def away() -> Array:
            other = reference(latents, t)
            moved = other + spread(jnp.asarray(scale, jnp.float32), other) * (wanted - other)
            return jnp.where(spread(where, other), moved, wanted)

        return jax.lax.cond(jnp.any(where), away, lambda: wanted)

    return values


def unguided(network: Network, labels: Int[Array, " B"]) -> Drift:
    """What the network says of the given labels."""

    def values(latents: Array, t: Array) -> Array:
        return network(latents, jnp.broadcast_to(t, labels.shape), labels)

    return values


def classifier_free(
    network: Network,
    labels: Int[Array, " B"],
    null_label: int,
    *,
    scale: Scale,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Drift:
    """Away from what the same network says without a label; see `Guidance` and `guided`."""
    conditional = unguided(network, labels)
    reference = unguided(network, jnp.full_like(labels, null_label))
    return guided(conditional, reference, scale=scale, interval=interval)


def autoguidance(
    network: Network,
    guide: Network,
    labels: Int[Array, " B"],
    *,
    scale: Scale,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Drift:
    """Away from what a weaker network says of the same labels; see `Guidance` and `guided`."""
    conditional, reference = unguided(network, labels), unguided(guide, labels)
    return guided(conditional, reference, scale=scale, interval=interval)
