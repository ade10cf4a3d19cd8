"""What stage 2 needs of an autoencoder."""

import os
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp

from rae_jax.typing import Array, Float, Int, Key

A = TypeVar("A")


@runtime_checkable
class Autoencoder(Protocol):
    """Images to latents and back.

    Images are float32 NHWC in [0, 1]; latents are NHWC and normalised so that they are what
    stage 2 trains on.
    """

    def encode(
        self, images: Float[Array, "B H W 3"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "B h w C"]:
        """Latents of images; `key` feeds what is random in the encoding, None leaves it out."""
        ...

    def decode(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Images of latents, not clipped."""
        ...

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """(h, w, C) of the latents of square images."""
        ...


class LatentMoments(NamedTuple):
    """What `encode` draws the latents of images from.

    Attributes:
        mean: Without chance, the latents themselves.
        deviation: Standard deviation; None where nothing is random.
    """

    mean: Float[Array, "B h w C"]
    deviation: Float[Array, "B h w C"] | None = None

    def draw(self, key: Key[Array, ""], index: Int[Array, " B"]) -> Float[Array, "B h w C"]:
        """Latents, float32; each depends on the key and on its number alone.

        Args:
            key: Of all of them.
            index: Number of each.
        """
        mean = self.mean.astype(jnp.float32)
        if self.deviation is None:
            return mean
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
        return mean + self.deviation.astype(jnp.float32) * noise


@runtime_checkable
class VariationalAutoencoder(Autoencoder, Protocol):
    """An autoencoder whose latents have a normal distribution for each image."""

    def latent_moments(self, images: Float[Array, "B H W 3"]) -> LatentMoments:
        """What `encode` draws from, normalised as its latents are."""
        ...


def latent_moments(autoencoder: Autoencoder, images: Float[Array, "B H W 3"]) -> LatentMoments:
    """Distribution of the latents of images, of any autoencoder."""
    if isinstance(autoencoder, VariationalAutoencoder):
        return autoencoder.latent_moments(images)
    return LatentMoments(autoencoder.encode(images))


def require_class(wanted: type[A], loaded: Any, name: str | os.PathLike[str]) -> A:
    """What was loaded from `name`.

    Raises:
        ValueError: It is of another class.
    """
    if not isinstance(loaded, wanted):
        raise ValueError(f"{name} holds {type(loaded).__name__}, not {wanted.__name__}")
    return loaded
