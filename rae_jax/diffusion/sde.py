"""Integrates from noise to latents with fresh noise in every step (SiT, arXiv:2401.08740).

Against the published sampler: one evaluation of the network gives both velocity and score, the
last step starts where the grid ends even if it is shifted, and diffusions that a path does not have
are an error rather than NaN.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.diffusion.ode import Drift
from rae_jax.diffusion.paths import Path, Times, VPPath, spread
from rae_jax.diffusion.predictions import to_score, to_velocity
from rae_jax.diffusion.time_grids import sampling_interval
from rae_jax.typing import Array, Float, Int, Key

Method = Literal["euler", "heun"]
LastStep = Literal["none", "mean", "tweedie", "euler"]
StepNoise = Callable[[Array], Array]
"""Step number [] -> standard normal noise [B, h, w, C]."""


def step_noise(
    key: Key[Array, ""], index: Int[Array, " B"], latent_shape: tuple[int, int, int]
) -> StepNoise:
    """Noise of every step, which depends on the key, the sample's number and the step alone."""

    def draw(step: Array) -> Array:
        def one(number: Array) -> Array:
            sample_key = jax.random.fold_in(jax.random.fold_in(key, number), step)
            return jax.random.normal(sample_key, latent_shape, jnp.float32)

        return jax.vmap(one)(index)

    return draw


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """How much noise comes and goes at time t, as half the variance per time.

    Attributes:
        form: "constant": norm. "sbdm": norm times the score's share of the velocity, which is
            positive on the VP path, and with a negative norm on the others short of t = 1.
            "sigma": norm * sigma(t). "linear": norm * t. "decreasing", towards the clean end:
            (1 - norm * cos(pi t))² / 4. "increasing_decreasing": norm * sin(pi t)².
        norm: Scale.
    """

    form: str = "sigma"
    norm: float = 1.0

    def __post_init__(self) -> None:
        """Rejects an unknown form."""
        if self.form not in _FORMS:
            raise ValueError(f"diffusion form must be one of {tuple(_FORMS)}, got {self.form!r}")

    def __call__(self, path: Path, t: Times) -> Times:
        """Diffusion at time t."""
        return _FORMS[self.form](path, t, self.norm)


_FORMS: dict[str, Callable[[Path, Array, float], Array]] = {
    "constant": lambda path, t, norm: jnp.full_like(t, norm),
    "sbdm": lambda path, t, norm: norm * path.score_drift(t)[1],
    "sigma": lambda path, t, norm: norm * path.sigma(t),
    "linear": lambda path, t, norm: norm * t,
    "decreasing": lambda path, t, norm: 0.25 * (1 - norm * jnp.cos(math.pi * t)) ** 2,
    "increasing_decreasing": lambda path, t, norm: norm * jnp.sin(math.pi * t) ** 2,
}


def sde_interval(
    path: Path, prediction: str, last_step_size: float = 0.04, margin: float = 1e-3
) -> tuple[float, float]:
    """First and last time of the grid, before the shift.

    The grid starts as that of an ODE and ends at `last_step_size`. At size 0, for samplers without
    a last step, it ends at 0 for velocity on the linear and GVP paths, else at the margin.

    Raises:
        ValueError: Unknown prediction, a margin outside (0, 0.5), or a size outside [0, 1).
    """
    first, _ = sampling_interval(path, prediction, margin)
    if not 0 <= last_step_size < 1:
        raise ValueError(f"last_step_size must be in [0, 1), got {last_step_size}")
    if last_step_size:
        return first, last_step_size
    return first, 0.0 if prediction == "velocity" and not isinstance(path, VPPath) else margin


@dataclasses.dataclass(frozen=True)
class Process:
    """The stochastic process that a denoiser defines.

    Attributes:
        path: From clean latents to noise.
        prediction: What the denoiser predicts.
        diffusion: How much noise comes and goes.
        method: "euler" (Euler-Maruyama), or "heun": noise first, then a step of Heun's method
            without noise; a step that ends at t = 0, where the score is infinite, is Euler's.
        last_step: From the end of the grid to 0, without noise. "none": not taken. "mean": along
            the drift. "euler": along the velocity. "tweedie": to the expected clean latents.
    """

    path: Path
    prediction: str = "velocity"
    diffusion: Diffusion = Diffusion()
    method: str = "euler"
    last_step: str = "mean"

    def __post_init__(self) -> None:
        """Rejects what does not exist."""
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {get_args(Method)}, got {self.method!r}")
        if self.last_step not in get_args(LastStep):
            raise ValueError(
                f"last_step must be one of {get_args(LastStep)}, got {self.last_step!r}"
            )

    def integrate(
        self,
        predict: Drift,
        latents: Float[Array, "B h w C"],
        times: Float[np.ndarray, " T"],
        noise: StepNoise,
        *,
        keep_states: bool = False,
    ) -> Float[Array, "..."]:
        """Follows the process along the times.

        Args:
            predict: The denoiser with its conditions, guided or not: (latents, t []) ->
                prediction. Evaluated once per step by Euler, twice by Heun, once in a last step.
            latents: State at the first time.
            times: Decreasing grid, see `sde_interval` and `time_grid`.
            noise: See `step_noise`.
            keep_states: Return the state after every step, the last one included.

        Returns:
            Float32 [B, h, w, C], or [steps, B, h, w, C].

        Raises:
            ValueError: The diffusion is negative or infinite somewhere on the grid, or there is a
                last step and no time left for it.
        """
        self.require_defined(times)
        ends_on_zero = self.method == "heun" and times[-1] == 0
        state, states = latents.astype(jnp.float32), []
        pairs = jnp.stack([jnp.asarray(times[:-1]), jnp.asarray(times[1:])], axis=1)
        steps = jnp.arange(len(pairs))
        regular = len(pairs) - ends_on_zero

        def advance(state: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            (t, next_t), step = inputs
            state = self._step(predict, state, t, next_t, noise(step), self.method)
            return state, state if keep_states else jnp.zeros(())

        state, kept = jax.lax.scan(advance, state, (pairs[:regular], steps[:regular]))
        if ends_on_zero:
            t, next_t = pairs[-1]
            state = self._step(predict, state, t, next_t, noise(steps[-1]), "euler")
            states.append(state)
        if self.last_step != "none":
            state = self._finish(predict, state, jnp.float32(times[-1]))
            states.append(state)
        if not keep_states:
            return state
        return jnp.concatenate([kept, *(extra[None] for extra in states)])

    def require_defined(self, times: Float[np.ndarray, " T"]) -> None:
        """Raises ValueError if the process is undefined on the grid, see `integrate`."""
        if self.last_step != "none" and times[-1] == 0:
            raise ValueError(
                f"the last step {self.last_step!r} needs a grid that ends above 0; end it at the "
                'size of the last step, or take the last step "none"'
            )
        with jax.ensure_compile_time_eval():
            values = np.asarray(self.diffusion(self.path, jnp.asarray(times[times > 0])))
        wrong = times[times > 0][~((values >= 0) & np.isfinite(values))]
        if wrong.size:
            raise ValueError(
                f"the diffusion {self.diffusion.form!r} with norm {self.diffusion.norm} is "
                f"negative or infinite on {type(self.path).__name__} at t = {wrong[0]:.4g}; choose "
                "another form, or the other sign of the norm and a grid that starts below 1"
            )

    def _slopes(self, predict: Drift, state: Array, t: Array) -> tuple[Array, Array, Array]:
        """Drift, velocity and score from one evaluation."""
        value = predict(state, t).astype(jnp.float32)
        velocity = to_velocity(value, self.prediction, state, self.path, t)
        score = to_score(value, self.prediction, state, self.path, t)
        return velocity - self.diffusion(self.path, t) * score, velocity, score

    def _step(
        self, predict: Drift, state: Array, t: Array, next_t: Array, noise: Array, method: str
    ) -> Array:
        size = next_t - t
        # The diffusion at the step's start acts over the whole step.
        strength = jnp.sqrt(2 * self.diffusion(self.path, t) * jnp.abs(size))
        shaken = state + strength * noise
        if method == "euler":
            return shaken + size * self._slopes(predict, state, t)[0]
        first = self._slopes(predict, shaken, t)[0]
        second = self._slopes(predict, shaken + size * first, next_t)[0]
        return shaken + size / 2 * (first + second)

    def _finish(self, predict: Drift, state: Array, t: Array) -> Array:
        drift, velocity, score = self._slopes(predict, state, t)
        if self.last_step == "mean":
            return state - t * drift
        if self.last_step == "euler":
            return state - t * velocity
        alpha, sigma = (spread(value, state) for value in (self.path.alpha(t), self.path.sigma(t)))
        return (state + sigma**2 * score) / alpha
