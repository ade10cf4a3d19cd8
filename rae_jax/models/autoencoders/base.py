"""What stage 2 needs of an autoencoder."""

import os
from typing import Any, Protocol, TypeVar, runtime_checkable

from rae_jax.typing import Array, Float, Key

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


def require_class(wanted: type[A], loaded: Any, name: str | os.PathLike[str]) -> A:
    """What was loaded from `name`.

    Raises:
        ValueError: It is of another class.
    """
    if not isinstance(loaded, wanted):
        raise ValueError(f"{name} holds {type(loaded).__name__}, not {wanted.__name__}")
    return loaded
