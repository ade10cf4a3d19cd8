"""What stage 2 needs of an autoencoder."""

from typing import Protocol, runtime_checkable

from rae_jax.typing import Array, Float, Key


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
