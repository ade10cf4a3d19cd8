"""What an autoencoder needs of an encoder."""

from typing import Protocol, runtime_checkable

from rae_jax.typing import Array, Float


@runtime_checkable
class Encoder(Protocol):
    """A network from normalised pixels to a grid of features."""

    @property
    def patch_size(self) -> int:
        """Side of the square of pixels behind one feature."""
        ...

    @property
    def hidden_size(self) -> int:
        """Width of the features."""
        ...

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        """Features after the final LayerNorm without affine part, special tokens dropped."""
        ...
