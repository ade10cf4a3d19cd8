"""The flow-matching loss."""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from rae_jax.diffusion.paths import LinearPath, Path, spread, squared_error
from rae_jax.diffusion.predictions import require_prediction
from rae_jax.diffusion.time_sampling import TimeDistribution, training_interval
from rae_jax.typing import Array, Float, Int, Key

Weight = Literal["none", "velocity", "likelihood"]

Predict = Callable[[Array, Array], Array]
"""(noisy latents [B, h, w, C], t [B]) -> prediction [B, h, w, C]."""


@dataclasses.dataclass(frozen=True)
class FlowMatching:
    """What a denoiser is trained on: mean square error of its prediction, per sample.

    Flow matching (arXiv:2210.02747) with the choices of SiT (arXiv:2401.08740).

    Attributes:
        path: From clean latents to noise.
        prediction: What the denoiser returns.
        times: Distribution of the times; `training_interval` has their ends.
        weight: Factor of noise and score errors (score errors count times sigma): "none";
            "velocity": the error of the velocity they imply; "likelihood": bounds the likelihood.
            Clean predictions take "none" and "velocity". Velocity predictions need none, and any
            weight leaves them as they are.
    """

    path: Path = LinearPath()
    prediction: str = "velocity"
    times: TimeDistribution = TimeDistribution()
    weight: str = "none"

    def __post_init__(self) -> None:
        """Rejects what does not exist or does not go together."""
        require_prediction(self.prediction)
        if self.weight not in get_args(Weight):
            raise ValueError(f"weight must be one of {get_args(Weight)}, got {self.weight!r}")
        if self.prediction == "clean" and self.weight == "likelihood":
            raise ValueError('a clean prediction takes the weight "none" or "velocity"')

    def loss(
        self,
        predict: Predict,
        clean_latents: Float[Array, "B h w C"],
        key: Key[Array, ""],
        index: Int[Array, " B"] | None = None,
    ) -> Float[Array, " B"]:
        """Loss of every sample at a random time.

        Args:
            predict: The denoiser with its conditions.
            clean_latents: What the path starts from.
            key: Times and noise of a sample depend on the key and on its index alone.
            index: Of the samples, for a part of a batch; unless given, 0, 1, ...
        """
        t, noise = self.draw(clean_latents, key, index)
        return self.loss_at(predict, clean_latents, noise, t)

    def draw(
        self,
        clean_latents: Float[Array, "B h w C"],
        key: Key[Array, ""],
        index: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, " B"], Float[Array, "B h w C"]]:
        """Times and noise, float32, as `loss` draws them."""

        def one(index: Array) -> tuple[Array, Array]:
            time_key, noise_key = jax.random.split(jax.random.fold_in(key, index))
            noise = jax.random.normal(noise_key, clean_latents.shape[1:], jnp.float32)
            return jax.random.uniform(time_key, (), jnp.float32), noise

        index = jnp.arange(len(clean_latents)) if index is None else index
        draws, noise = jax.vmap(one)(index)
        ends = training_interval(self.path, self.prediction)
        return self.times.quantile(draws, ends), noise

    def loss_at(
        self,
        predict: Predict,
        clean_latents: Float[Array, "B h w C"],
        noise: Float[Array, "B h w C"],
        t: Float[Array, " B"],
    ) -> Float[Array, " B"]:
        """Loss of every sample at given times and noise, float32."""
        clean_latents = clean_latents.astype(jnp.float32)
        noisy_latents = self.path.noisy_latents(clean_latents, noise, t)
        prediction, target = predict(noisy_latents, t), clean_latents
        if self.prediction == "velocity":
            target = self.path.velocity(clean_latents, noise, t)
        elif self.prediction == "noise":
            target = noise
        elif self.prediction == "score":
            prediction, target = spread(self.path.sigma(t), noise) * prediction, -noise
        return self._weights(t) * squared_error(prediction, target)

    def _weights(self, t: Float[Array, " B"]) -> Float[Array, " B"]:
        if self.weight == "none" or self.prediction == "velocity":
            return jnp.ones_like(t)
        sigma = self.path.sigma(t)
        if self.prediction == "clean":
            ratio = self.path.sigma_derivative(t) * self.path.alpha(t) / sigma
            return (self.path.alpha_derivative(t) - ratio) ** 2
        _, of_noise = self.path.noise_drift(t)
        return of_noise**2 if self.weight == "velocity" else -of_noise / sigma
