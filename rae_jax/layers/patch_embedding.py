"""Images to tokens."""

from flax import nnx

from rae_jax.layers.linear import LinearFactory, xavier_linear
from rae_jax.ops.patches import patchify
from rae_jax.typing import Array, DTypeLike, Float


class PatchEmbedding(nnx.Module):
    """One linear map of every patch: a convolution whose stride is its kernel size.

    The kernel is [p*p*C, D] with rows in the order (row, column, channel).
    """

    def __init__(
        self,
        patch_size: int,
        channels: int,
        hidden_size: int,
        *,
        linear: LinearFactory = xavier_linear,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.patch_size = patch_size
        self.projection = linear(patch_size**2 * channels, hidden_size, dtype=dtype, rngs=rngs)

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        """Tokens in raster order; an error unless the patch size divides both sides."""
        return self.projection(patchify(images, self.patch_size))
