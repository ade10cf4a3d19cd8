"""From noise to latents: a denoiser, guidance, a grid of times and an integrator put together."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from rae_jax.diffusion import guidance
from rae_jax.diffusion.ode import METHODS, integrate
from rae_jax.diffusion.paths import Path
from rae_jax.diffusion.predictions import to_velocity
from rae_jax.typing import Array, Float, Int, Key

Predict = Callable[[Array, Array, Array], Array]
"""(noisy latents [B, h, w, C], t [B], labels [B]) -> prediction [B, h, w, C]."""


def sample_noise(
    key: Key[Array, ""], index: Int[Array, " B"], latent_shape: tuple[int, int, int]
) -> Float[Array, "B h w C"]:
    """Starting noise of the samples of the given numbers.

    The noise of sample n depends on the key and n alone, so it is the same in any batch and on
    any number of devices.
    """
    return jax.vmap(lambda n: jax.random.normal(jax.random.fold_in(key, n), latent_shape))(index)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How noise becomes latents.

    Attributes:
        latent_shape: (h, w, C).
        path: Path of the transport.
        prediction: What the denoiser predicts.
        times: Grid from noise to clean.
        method: Integrator, see `ode.METHODS`.
        guidance_scale: Of classifier-free guidance; 1 for none.
        guidance_interval: Closed range of t in which guidance acts.
    """

    latent_shape: tuple[int, int, int]
    path: Path
    prediction: str
    times: tuple[float, ...]
    method: str = "euler"
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Rejects an unknown method, and one that asks for a velocity where there is none."""
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {tuple(METHODS)}, got {self.method!r}")
        ends_on_zero = self.times[-1] == 0 and METHODS[self.method].nodes[-1] == 1
        if self.prediction == "clean" and ends_on_zero:
            raise ValueError(
                f"a clean prediction has no velocity at t = 0, where {self.method} evaluates it; "
                'use "euler" or the final step "grid"'
            )

    def __call__(
        self,
        predict: Predict,
        null_label: int | None,
        key: Key[Array, ""],
        index: Int[Array, " B"],
        labels: Int[Array, " B"],
    ) -> Float[Array, "B h w C"]:
        """Latents of the samples number `index` with their labels.

        Args:
            predict: The denoiser.
            null_label: Label that stands for none; unguided samples need none.
            key: Of the noise of all samples.
            index: Number of each sample.
            labels: Class of each sample.
        """

        def velocity(latents: Array, t: Array, labels: Array) -> Array:
            value = predict(latents, t, labels)
            return to_velocity(value, self.prediction, latents, self.path, t)

        if self.guidance_scale == 1:
            drift = guidance.unguided(velocity, labels)
        elif null_label is None:
            raise ValueError(
                "classifier-free guidance needs a null label; the denoiser has none, as it was "
                "trained without label dropout"
            )
        else:
            drift = guidance.classifier_free(
                velocity,
                labels,
                null_label,
                scale=self.guidance_scale,
                interval=self.guidance_interval,
            )
        noise = sample_noise(key, index, self.latent_shape)
        times = np.asarray(self.times, np.float32)
        return integrate(drift, noise, times, method=self.method)
