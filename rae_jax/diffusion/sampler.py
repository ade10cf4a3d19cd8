"""From noise to latents: a denoiser, guidance, a grid of times and an integrator put together."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.diffusion import guidance
from rae_jax.diffusion.guidance import Guidance, Network
from rae_jax.diffusion.ode import Drift, Flow
from rae_jax.diffusion.sde import Process, step_noise
from rae_jax.typing import Array, Float, Int, Key

_STEPS = jnp.iinfo(jnp.uint32).max
"""In the place of a sample's number: key of the noise of stochastic steps."""


@runtime_checkable
class Denoiser(Protocol):
    """What is needed of a model, see `models.denoisers.base.Denoiser`."""

    @property
    def null_label(self) -> int | None:
        """Label that stands for none; None if there is none."""
        ...

    def __call__(
        self,
        noisy_latents: Float[Array, "B h w C"],
        t: Float[Array, " B"],
        labels: Int[Array, " B"],
    ) -> Any:
        """An object whose `prediction` is shaped like the latents."""
        ...


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
        times: Grid from noise to clean.
        integrator: What is done along the grid: `Flow`, or `Process` with fresh noise in each step.
        guidance: Guidance.
    """

    latent_shape: tuple[int, int, int]
    times: tuple[float, ...]
    integrator: Flow | Process = Flow()
    guidance: Guidance = Guidance()

    def __post_init__(self) -> None:
        """Rejects an integrator that is undefined somewhere on the grid."""
        self.integrator.require_defined(self._grid)

    @property
    def _grid(self) -> Float[np.ndarray, " T"]:
        return np.asarray(self.times, np.float32)

    def __call__(
        self,
        model: Denoiser,
        key: Key[Array, ""],
        index: Int[Array, " B"],
        labels: Int[Array, " B"],
        *,
        guide: Denoiser | None = None,
        guidance_scale: Float[Array, " B"] | None = None,
    ) -> Float[Array, "B h w C"]:
        """Latents of the samples number `index` with their labels.

        Args:
            model: The denoiser.
            key: Of the noise of all samples.
            index: Number of each sample.
            labels: Class of each sample.
            guide: The weaker denoiser of autoguidance.
            guidance_scale: One scale per sample, in place of the sampler's one for all.

        Raises:
            ValueError: Guidance lacks what it needs: the denoiser a null label, autoguidance a
                guide; or a scale or guide is given that nothing would use.
        """
        predict = self._predictions(model, guide, labels, guidance_scale)
        noise = sample_noise(key, index, self.latent_shape)
        fresh = step_noise(jax.random.fold_in(key, _STEPS), index, self.latent_shape)
        return self.integrator.integrate(predict, noise, self._grid, fresh)

    def _predictions(
        self,
        model: Denoiser,
        guide: Denoiser | None,
        labels: Int[Array, " B"],
        guidance_scale: Float[Array, " B"] | None,
    ) -> Drift:
        """The denoiser's predictions for these labels, guided as asked."""
        method, interval = self.guidance.method, self.guidance.interval
        self._require_used(guide, guidance_scale)
        scale = self.guidance.scale if guidance_scale is None else guidance_scale
        if method == "none":
            return guidance.unguided(_network(model), labels)
        if method == "classifier_free":
            if model.null_label is None:
                raise ValueError(
                    "classifier-free guidance needs a null label; the denoiser has none, as it was "
                    "trained without label dropout"
                )
            return guidance.classifier_free(
                _network(model), labels, model.null_label, scale=scale, interval=interval
            )
        if guide is None:
            raise ValueError("autoguidance needs a second, weaker denoiser; give the sampler one")
        return guidance.autoguidance(
            _network(model), _network(guide), labels, scale=scale, interval=interval
        )

    def _require_used(
        self, guide: Denoiser | None, guidance_scale: Float[Array, " B"] | None
    ) -> None:
        method = self.guidance.method
        if guide is not None and method != "autoguidance":
            raise ValueError(
                f"only autoguidance uses a guide, guidance is {method!r}; leave it out"
            )
        if guidance_scale is not None and method == "none":
            raise ValueError(
                "a guidance scale per sample needs a guidance method, got 'none'; set "
                "guidance.method or leave the scales out"
            )


def _network(model: Denoiser) -> Network:
    return lambda latents, t, labels: model(latents, t, labels).prediction
