"""Noise on features, which makes a decoder tolerant of imperfect latents."""

import dataclasses

import jax

from rae_jax.typing import Array, Float, Int, Key


def apply_latent_noise(
    features: Float[Array, "B h w C"], sigma: Float[Array, " B"], noise: Float[Array, "B h w C"]
) -> Float[Array, "B h w C"]:
    """Gives features + sigma * noise, one sigma per sample."""
    return features + sigma[:, None, None, None] * noise


def add_latent_noise(
    features: Float[Array, "B h w C"],
    key: Key[Array, ""],
    noise_tau: float,
    index: Int[Array, " B"] | None = None,
) -> Float[Array, "B h w C"]:
    """Adds normal noise of a random strength (RAE, arXiv:2510.11690, section on noisy decoding).

    Args:
        features: Before the normalisation by latent statistics.
        key: Source of strengths and noise; the noise of a sample depends on its index, not on the
            batch size.
        noise_tau: The strength of each sample is uniform in [0, noise_tau).
        index: Of the samples, for a part of a batch; unless given, 0, 1, ...

    Raises:
        ValueError: If `noise_tau` is negative.
    """
    if noise_tau < 0:
        raise ValueError(f"noise_tau must not be negative, got {noise_tau}")

    def draw(sample_key: Array) -> tuple[Array, Array]:
        sigma_key, noise_key = jax.random.split(sample_key)
        sigma = noise_tau * jax.random.uniform(sigma_key, dtype=features.dtype)
        return sigma, jax.random.normal(noise_key, features.shape[1:], features.dtype)

    index = jax.numpy.arange(len(features)) if index is None else index
    sample_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
    return apply_latent_noise(features, *jax.vmap(draw)(sample_keys))


@dataclasses.dataclass(frozen=True)
class LatentNoise:
    """`add_latent_noise` with a fixed `noise_tau`, as an autoencoder takes it."""

    noise_tau: float

    def __call__(
        self, features: Float[Array, "B h w C"], key: Key[Array, ""]
    ) -> Float[Array, "B h w C"]:
        """Noisy features."""
        return add_latent_noise(features, key, self.noise_tau)
