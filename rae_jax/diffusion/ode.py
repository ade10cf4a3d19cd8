"""Integrates drifts from noise to latents with explicit Runge-Kutta steps."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.typing import Array, Float

Drift = Callable[[Array, Array], Array]
"""(latents [B, h, w, C], t [] or [B]) -> their derivative by t, or a prediction, [B, h, w, C]."""


@dataclasses.dataclass(frozen=True)
class Method:
    """Butcher tableau of an explicit Runge-Kutta method.

    Attributes:
        nodes: Place of each evaluation within the step, as a fraction.
        stages: Per evaluation after the first, weights of the slopes before it.
        weights: Weights of all slopes in the step.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


METHODS = {
    "euler": Method((0.0,), (), (1.0,)),
    "midpoint": Method((0.0, 1 / 2), ((1 / 2,),), (0.0, 1.0)),
    "heun": Method((0.0, 1.0), ((1.0,),), (1 / 2, 1 / 2)),
    "heun3": Method((0.0, 1 / 3, 2 / 3), ((1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)),
    "rk4": Method(
        (0.0, 1 / 3, 2 / 3, 1.0),
        ((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    ),
}
"""Methods by name, of order 1, 2, 2, 3 and 4; "rk4" is the 3/8 rule."""


def integrate(
    drift: Drift,
    latents: Float[Array, "B h w C"],
    times: Float[Array | np.ndarray, " T"],
    *,
    method: str = "euler",
    keep_states: bool = False,
) -> Float[Array, "..."]:
    """Follows the drift along the times, one step per pair of neighbours.

    Args:
        drift: Derivative of the latents by t; evaluated once per node of the method in each step.
        latents: State at the first time.
        times: Grid, see `time_grid`.
        method: "euler", "midpoint", "heun", "heun3" or "rk4".
        keep_states: Return the states at all times rather than the last.

    Returns:
        Float32 [B, h, w, C], or [T, B, h, w, C] with the given latents first.

    Raises:
        ValueError: Unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {tuple(METHODS)}, got {method!r}")
    tableau = METHODS[method]

    def step(state: Array, ends: tuple[Array, Array]) -> tuple[Array, Any]:
        state = _step(drift, state, *ends, tableau)
        return state, (state if keep_states else None)

    times = jnp.asarray(times, jnp.float32)
    start = latents.astype(jnp.float32)
    end, states = jax.lax.scan(step, start, (times[:-1], times[1:]))
    return jnp.concatenate([start[None], states]) if keep_states else end


def _step(drift: Drift, state: Array, t: Array, next_t: Array, tableau: Method) -> Array:
    size = next_t - t
    slopes: list[Array] = []
    for node, weights in zip(tableau.nodes, ((), *tableau.stages), strict=True):
        # Exactly the next time at node 1, where t + size may round past a guidance interval.
        at = next_t if node == 1 else t + node * size
        slopes.append(drift(_advance(state, size, slopes, weights), at).astype(jnp.float32))
    return _advance(state, size, slopes, tableau.weights)


def _advance(state: Array, size: Array, slopes: list[Array], weights: tuple[float, ...]) -> Array:
    used = [weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight]
    return state + size * sum(used[1:], used[0]) if used else state
