"""Sampling with a backbone whose state serves several steps (DDT, arXiv:2504.05741, section 3.4).

A denoiser of two parts first computes a state from the noisy latents, time and label, then predicts
from the noisy latents and the state. The state changes little from step to step, so most of the
work can be left out in most steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.diffusion.guidance import Scale, acts, guided
from rae_jax.diffusion.ode import Drift
from rae_jax.typing import Array, Float, Int


@runtime_checkable
class TwoParts(Protocol):
    """A denoiser whose backbone and head can be evaluated apart, such as DiTDH."""

    def backbone_state(
        self,
        noisy_latents: Float[Array, "B h w C"],
        t: Float[Array, " B"],
        labels: Int[Array, " B"],
    ) -> Array:
        """What several steps may share."""
        ...

    def predict(self, noisy_latents: Float[Array, "B h w C"], state: Array) -> Any:
        """An object whose `prediction` is shaped like the latents."""
        ...


class Branch(NamedTuple):
    """A denoiser with its labels: what is wanted, or what guidance moves away from."""

    model: TwoParts
    labels: Int[Array, " B"]

    def state(self, latents: Float[Array, "B h w C"], t: Float[Array, ""]) -> Array:
        """State of the backbone."""
        times = jnp.broadcast_to(t, self.labels.shape)
        return self.model.backbone_state(latents, times, self.labels)

    def no_state(self, latents: Float[Array, "B h w C"]) -> Array:
        """Zeros in the place of a state that is not there yet."""
        like = jax.eval_shape(self.state, latents, jnp.zeros((), jnp.float32))
        return jnp.zeros(like.shape, like.dtype)

    def from_state(self, state: Array) -> Drift:
        """Predictions from a given state."""
        return lambda latents, t: self.model.predict(latents, state).prediction


def require_steps(steps: tuple[int, ...], num_steps: int) -> None:
    """Raises ValueError unless the steps rise from 0 and there are that many.

    Args:
        steps: Those that compute the state.
        num_steps: Steps that are taken.
    """
    if list(steps) != sorted({*steps, 0}) or steps[-1] >= num_steps:
        raise ValueError(
            f"backbone_steps must rise from 0 to at most {num_steps - 1}, its end, got {steps}"
        )


def integrate_shared(
    to_velocity: Callable[[Array, Array, Array], Array],
    wanted: Branch,
    reference: Branch | None,
    latents: Float[Array, "B h w C"],
    times: Float[np.ndarray, " T"],
    steps: tuple[int, ...],
    *,
    scale: Scale = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Float[Array, "B h w C"]:
    """Follows the flow with Euler's method, the state computed in some of the steps only.

    The reference's state is computed in the same steps, where guidance acts, and in the first step
    in which it acts after one in which it did not.

    Args:
        to_velocity: (prediction, latents, t) -> velocity.
        wanted: What to follow.
        reference: What guidance moves away from.
        latents: State at the first time.
        times: Decreasing grid.
        steps: Numbers of the steps that compute the state.
        scale: Of guidance; 1 is none.
        interval: Closed range of t in which guidance acts.

    Returns:
        Float32.
    """
    require_steps(steps, len(times) - 1)
    fresh = np.isin(np.arange(len(times) - 1), steps)

    def step(carry: Any, inputs: tuple[Array, Array, Array]) -> tuple[Any, None]:
        latents, state, other, is_current = carry
        t, next_t, fresh = inputs
        state = jax.lax.cond(fresh, wanted.state, lambda *_: state, latents, t)
        predict = wanted.from_state(state)
        if reference is not None:
            matters = jnp.any(acts(t, scale, interval))
            due = matters & (fresh | ~is_current)
            other = jax.lax.cond(due, reference.state, lambda *_: other, latents, t)
            is_current = matters | (is_current & ~fresh)
            predict = guided(predict, reference.from_state(other), scale=scale, interval=interval)
        velocity = to_velocity(predict(latents, t), latents, t).astype(jnp.float32)
        return (latents + (next_t - t) * velocity, state, other, is_current), None

    latents = latents.astype(jnp.float32)
    other = jnp.zeros(()) if reference is None else reference.no_state(latents)
    start = latents, wanted.no_state(latents), other, jnp.zeros((), bool)
    inputs = jnp.asarray(times[:-1]), jnp.asarray(times[1:]), jnp.asarray(fresh)
    (latents, *_), _ = jax.lax.scan(step, start, inputs)
    return latents
