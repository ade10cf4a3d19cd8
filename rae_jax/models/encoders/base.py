"""What an autoencoder needs of an encoder."""

import abc
from collections.abc import Sequence

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

    @property
    @abc.abstractmethod
    def depth(self) -> int:
        """Number of blocks."""

    @property
    @abc.abstractmethod
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the patches: class token and registers."""

    @abc.abstractmethod
    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        """Features after the final LayerNorm without affine part, special tokens dropped."""

    @abc.abstractmethod
    def hidden_states(
        self, pixels: Float[Array, "B H W 3"], layers: Sequence[int] | None = None
    ) -> Float[Array, "L B N D"]:
        """All tokens between the blocks, special tokens first, before the final norm.

        Args:
            pixels: Normalised pixels.
            layers: Which to give, in the order wanted: 0 is the input of the first block, i the
                output of the i-th, negative ones count from the last. None gives all
                `depth + 1`.
        """
