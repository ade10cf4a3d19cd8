"""Integrates drifts with the adaptive method of Dormand and Prince, through diffrax.

Every sample chooses its own steps, so that it depends on no other in its batch; the network is
still evaluated on whole batches, as often as the sample with the most steps needs.
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from rae_jax.diffusion.ode import Drift
from rae_jax.typing import Array, Float

MAX_STEPS = 4096
"""Steps, taken and rejected, after which a sample is given up."""


def integrate_adaptively(
    drift: Drift,
    latents: Float[Array, "B h w C"],
    start: float,
    end: float,
    *,
    rtol: float,
    atol: float,
) -> Float[Array, "B h w C"]:
    """Follows the drift from the time `start` to `end`.

    Args:
        drift: Derivative of the latents by t, at one time per sample [B].
        latents: State at the start.
        start: First time.
        end: Last time, before or after the first.
        rtol: Error of a step that is accepted, relative to the state (root mean square over a
            sample).
        atol: The same, absolute.

    Returns:
        Float32; NaN for samples that need more than `MAX_STEPS` steps.
    """
    import diffrax  # Takes a second, which only those who use it should pay.

    latents = latents.astype(jnp.float32)
    slope, constants = _one_by_one(drift, latents)

    def one(latents: Array) -> Array:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, *inputs: slope(jnp.asarray(t), *inputs)),
            diffrax.Dopri5(),
            t0=start,
            t1=end,
            dt0=None,
            y0=latents,
            args=constants,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
            max_steps=MAX_STEPS,
            # To raise an error would take a round trip to the host.
            throw=False,
        )
        found = solution.result == diffrax.RESULTS.successful
        return jnp.where(found, cast(Array, solution.ys)[-1], jnp.nan)

    return jax.vmap(one)(latents)


def _one_by_one(
    drift: Drift, batch: Float[Array, "B h w C"]
) -> tuple[Callable[[Array, Array, Any], Array], list[Any]]:
    """Slope (t, latents [h, w, C], constants) -> [h, w, C] that `vmap` evaluates on whole batches.

    A batch is evaluated with its conditions, which the drift closes over: they cannot be told
    sample by sample, so the slope works under a `vmap` over just the batch. As `vmap` does not see
    what functions close over, it becomes an argument, the constants.
    """

    def on_batch(latents: Array, t: Array) -> Array:
        return drift(latents, t).astype(jnp.float32)

    traced = jax.make_jaxpr(on_batch)(batch, jnp.zeros(batch.shape[:1], jnp.float32))

    @custom_vmap
    def slope(t: Array, latents: Array, constants: list[Any]) -> Array:
        return jnp.zeros_like(latents)

    @slope.def_vmap
    def _(size: int, batched: Any, t: Array, latents: Array, constants: list[Any]) -> Any:
        times = jnp.broadcast_to(t, (size,)).astype(jnp.float32)
        (slopes,) = jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, constants))(latents, times)
        return slopes, True

    return slope, traced.consts
