"""Fixed-step integrators of d latents / dt = drift(latents, t)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rae_jax.typing import Array, Float

Drift = Callable[[Array, Array], Array]
"""(latents [B, h, w, C], t scalar) -> velocity [B, h, w, C]."""

Step = Callable[[Drift, Array, Array, Array], Array]


def _euler(drift: Drift, latents: Array, t: Array, dt: Array) -> Array:
    return latents + dt * drift(latents, t)


def _midpoint(drift: Drift, latents: Array, t: Array, dt: Array) -> Array:
    middle = latents + dt / 2 * drift(latents, t)
    return latents + dt * drift(middle, t + dt / 2)


def _heun(drift: Drift, latents: Array, t: Array, dt: Array) -> Array:
    first = drift(latents, t)
    return latents + dt / 2 * (first + drift(latents + dt * first, t + dt))


def _rk4(drift: Drift, latents: Array, t: Array, dt: Array) -> Array:
    # The 3/8 rule, which upstream's solver (torchdiffeq) calls rk4.
    first = drift(latents, t)
    second = drift(latents + dt / 3 * first, t + dt / 3)
    third = drift(latents + dt * (second - first / 3), t + dt * 2 / 3)
    fourth = drift(latents + dt * (first - second + third), t + dt)
    return latents + dt / 8 * (first + 3 * (second + third) + fourth)


METHODS: dict[str, Step] = {
    "euler": _euler,
    "heun": _heun,
    "midpoint": _midpoint,
    "rk4": _rk4,
}
"""Integrators by name; they evaluate the drift 1, 2, 2 and 4 times a step."""


def integrate(
    drift: Drift,
    latents: Float[Array, "B ..."],
    grid: Float[Any, " points"],
    *,
    method: str = "euler",
    keep_states: bool = False,
) -> Float[Array, "..."]:
    """Follows the drift along the grid in one compiled loop.

    Args:
        drift: Right-hand side.
        latents: State at `grid[0]`.
        grid: Times in the order they are visited, decreasing from noise to clean.
        method: One of `METHODS`.
        keep_states: Return the states at all grid points, [points, B, ...].

    Returns:
        The state at the last time.

    Raises:
        ValueError: Unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {sorted(METHODS)}, got {method!r}")
    step, times = METHODS[method], jnp.asarray(grid)

    def body(latents: Array, span: tuple[Array, Array]) -> tuple[Array, Array | None]:
        start, end = span
        latents = step(drift, latents, start, end - start)
        return latents, (latents if keep_states else None)

    final, states = jax.lax.scan(body, latents, (times[:-1], times[1:]))
    return jnp.concatenate([latents[None], states]) if keep_states else final
