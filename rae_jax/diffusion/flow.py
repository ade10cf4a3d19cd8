"""The flow that a denoiser defines, followed from noise to latents without chance."""

import dataclasses
from typing import Any

import numpy as np

from rae_jax.diffusion.adaptive import integrate_adaptively
from rae_jax.diffusion.ode import METHODS, Drift, integrate
from rae_jax.diffusion.paths import LinearPath, Path, Times
from rae_jax.diffusion.predictions import require_prediction, to_velocity
from rae_jax.typing import Array, Float

ADAPTIVE = "dopri5"


@dataclasses.dataclass(frozen=True)
class Flow:
    """The ordinary differential equation that a denoiser defines, and how it is solved.

    Attributes:
        path: From clean latents to noise.
        prediction: What the denoiser predicts.
        method: One of `ode.METHODS`, or "dopri5", which takes only the ends of the grid and chooses
            its own steps.
        rtol: Of "dopri5", see `integrate_adaptively`.
        atol: The same.
    """

    path: Path = LinearPath()
    prediction: str = "velocity"
    method: str = "euler"
    rtol: float = 1e-3
    atol: float = 1e-6

    def __post_init__(self) -> None:
        """Rejects what does not exist."""
        require_prediction(self.prediction)
        legal = (*METHODS, ADAPTIVE)
        if self.method not in legal:
            raise ValueError(f"method must be one of {legal}, got {self.method!r}")
        if min(self.rtol, self.atol) <= 0:
            raise ValueError(f"tolerances must be above 0, got {self.rtol} and {self.atol}")

    def require_defined(self, times: Float[np.ndarray, " T"]) -> None:
        """Raises ValueError if the method asks for a velocity where the prediction has none."""
        ends_on_it = self.method == ADAPTIVE or METHODS[self.method].nodes[-1] == 1
        if self.prediction == "clean" and times[-1] == 0 and ends_on_it:
            raise ValueError(
                f"a clean prediction has no velocity at t = 0, where {self.method} evaluates it; "
                'use "euler" or the final step "grid"'
            )

    def to_velocity(
        self, value: Float[Array, "B h w C"], latents: Float[Array, "B h w C"], t: Times
    ) -> Float[Array, "B h w C"]:
        """Velocity that a prediction stands for."""
        return to_velocity(value, self.prediction, latents, self.path, t)

    def integrate(
        self,
        predict: Drift,
        latents: Float[Array, "B h w C"],
        times: Float[np.ndarray, " T"],
        noise: Any = None,
    ) -> Float[Array, "B h w C"]:
        """Follows the flow along the times.

        Args:
            predict: The denoiser with its conditions, guided or not: (latents, t) -> prediction.
            latents: State at the first time.
            times: Decreasing grid, see `time_grid`.
            noise: Not used; `Process` has it.
        """

        def drift(latents: Array, t: Array) -> Array:
            return self.to_velocity(predict(latents, t), latents, t)

        if self.method == ADAPTIVE:
            ends = float(times[0]), float(times[-1])
            return integrate_adaptively(drift, latents, *ends, rtol=self.rtol, atol=self.atol)
        return integrate(drift, latents, times, method=self.method)
