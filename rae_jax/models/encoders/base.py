"""What an autoencoder needs of an encoder."""

import abc

from flax import nnx

from rae_jax.typing import Array, Float


class Encoder(nnx.Module):
    """A network from normalised pixels to a grid of features."""

    @property
    @abc.abstractmethod
    def patch_size(self) -> int:
        """Side of the square of pixels behind one feature."""

    @property
    @abc.abstractmethod
    def hidden_size(self) -> int:
        """Width of the features."""

    @abc.abstractmethod
    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        """Features after the final LayerNorm without affine part, special tokens dropped."""
