"""Options of autoencoders of convolutions, which take images of any size."""

import dataclasses
from collections.abc import Callable

from rae_jax.models.autoencoders.slicing import in_slices, require_slice_size
from rae_jax.models.autoencoders.tiling import Tiling, in_tiles
from rae_jax.typing import Array, Float


@dataclasses.dataclass(frozen=True)
class ConvolutionalOptions:
    """What changes neither the parameters nor the latents' range of an autoencoder.

    Attributes:
        slice_size: Images that go through encoder and decoder at a time, one slice after another
            in the same compiled function, which bounds memory; None takes the whole batch.
        tiling: How large images are cut into tiles, which bounds memory too and gives slightly
            different latents and images; None never cuts.
    """

    slice_size: int | None = None
    tiling: Tiling | None = None

    def __post_init__(self) -> None:
        """Rejects a slice of no images."""
        require_slice_size(self.slice_size)

    def encode(
        self, encoder: Callable[[Array], Array], pixels: Float[Array, "B H W 3"], step: int
    ) -> Float[Array, "B h w C"]:
        """What an encoder makes of pixels; each latent is of `step` pixels a side."""

        def encoded(pixels: Array) -> Array:
            tiling = self.tiling
            if tiling is None or not tiling.cuts(*pixels.shape[1:3]):
                return encoder(pixels)
            of_latents = tiling.of_latents(step)
            return in_tiles(
                encoder, pixels, tiling, overlap=of_latents.overlap, keep=of_latents.stride
            )

        return in_slices(encoded, pixels, self.slice_size)

    def decode(
        self, decoder: Callable[[Array], Array], latents: Float[Array, "B h w C"], step: int
    ) -> Float[Array, "B H W 3"]:
        """What a decoder makes of latents, cut where `encode` cuts their images."""

        def decoded(latents: Array) -> Array:
            tiling, (height, width) = self.tiling, latents.shape[1:3]
            if tiling is None or not tiling.cuts(height * step, width * step):
                return decoder(latents)
            of_latents = tiling.of_latents(step)
            return in_tiles(
                decoder, latents, of_latents, overlap=tiling.overlap, keep=tiling.stride
            )

        return in_slices(decoded, latents, self.slice_size)


def require_whole_latents(step: int, *sides: int) -> None:
    """Raises ValueError unless sides of images are multiples of the `step` pixels of a latent."""
    for side in sides:
        if side < 1 or side % step:
            raise ValueError(
                f"image sides must be multiples of {step} for this autoencoder, got {side}; resize "
                f"images to {max(side // step, 1) * step}"
            )
