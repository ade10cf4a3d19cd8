"""From noise to latents: a denoiser, guidance, a grid of times and an integrator put together."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.diffusion.flow import Flow
from rae_jax.diffusion.guidance import Guidance, Scale, guided, unguided
from rae_jax.diffusion.ode import Drift
from rae_jax.diffusion.sde import Process, step_noise
from rae_jax.diffusion.shared import Branch, TwoParts, integrate_shared, require_steps
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
        backbone_steps: Steps that compute the state of the denoiser's backbone, the others using
            the last one; () for no such sharing. For Euler's method on a `Flow`, see `shared`.
    """

    latent_shape: tuple[int, int, int]
    times: tuple[float, ...]
    integrator: Flow | Process = Flow()
    guidance: Guidance = Guidance()
    backbone_steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Rejects an integrator that is undefined on the grid, or that cannot share states."""
        self.integrator.require_defined(self._grid)
        if self.backbone_steps:
            require_steps(self.backbone_steps, len(self.times) - 1)
            if not isinstance(self.integrator, Flow) or self.integrator.method != "euler":
                raise ValueError("only Euler's method without chance shares backbone states")

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
        branches = self._branches(model, guide, labels, guidance_scale)
        scale = self.guidance.scale if guidance_scale is None else guidance_scale
        noise = sample_noise(key, index, self.latent_shape)
        if self.backbone_steps and isinstance(self.integrator, Flow):
            return self._shared(self.integrator, branches, scale, noise)
        wanted, *references = (_predictions(*branch) for branch in branches)
        for reference in references:
            wanted = guided(wanted, reference, scale=scale, interval=self.guidance.interval)
        fresh = step_noise(jax.random.fold_in(key, _STEPS), index, self.latent_shape)
        return self.integrator.integrate(wanted, noise, self._grid, fresh)

    def _branches(
        self,
        model: Denoiser,
        guide: Denoiser | None,
        labels: Int[Array, " B"],
        guidance_scale: Float[Array, " B"] | None,
    ) -> list[tuple[Denoiser, Int[Array, " B"]]]:
        """The denoiser with its labels, and what guidance moves away from if it acts."""
        method = self.guidance.method
        if guide is not None and method != "autoguidance":
            raise ValueError(f"guidance {method!r} uses no guide; leave it out")
        if guidance_scale is not None and method == "none":
            raise ValueError(
                "a guidance scale per sample needs a guidance method, got 'none'; set "
                "guidance.method or leave the scales out"
            )
        if method == "none":
            return [(model, labels)]
        if method == "autoguidance":
            if guide is None:
                raise ValueError("autoguidance needs a second, weaker denoiser; give one")
            return [(model, labels), (guide, labels)]
        if model.null_label is None:
            raise ValueError(
                "classifier-free guidance needs a null label; the denoiser has none, as it was "
                "trained without label dropout"
            )
        return [(model, labels), (model, jnp.full_like(labels, model.null_label))]

    def _shared(
        self,
        flow: Flow,
        branches: list[tuple[Denoiser, Int[Array, " B"]]],
        scale: Scale,
        noise: Float[Array, "B h w C"],
    ) -> Float[Array, "B h w C"]:
        parts = []
        for model, labels in branches:
            if not isinstance(model, TwoParts):
                raise ValueError(
                    f"steps cannot share a backbone state of {type(model).__name__}, which has no "
                    "backbone; leave backbone_steps empty"
                )
            parts.append(Branch(model, labels))
        wanted, *references = parts
        acts = not isinstance(scale, (int, float)) or scale != 1
        return integrate_shared(
            flow.to_velocity,
            wanted,
            references[0] if references and acts else None,
            noise,
            self._grid,
            self.backbone_steps,
            scale=scale,
            interval=self.guidance.interval,
        )


def _predictions(model: Denoiser, labels: Int[Array, " B"]) -> Drift:
    return unguided(lambda *inputs: model(*inputs).prediction, labels)
