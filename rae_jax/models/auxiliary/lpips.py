"""LPIPS: distance of two images as people see it (Zhang 2018, arXiv:1801.03924)."""

import jax.numpy as jnp
from flax import nnx

from rae_jax.models.auxiliary.vgg import VGG16
from rae_jax.ops.images import normalize
from rae_jax.typing import Array, Float

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10


class LPIPS(nnx.Module):
    """Weighted squared differences of VGG16's activations, each of unit length over channels.

    Version 0.1 of the published metric.
    """

    def __init__(self, network: VGG16):
        """Joins the network with one weight per channel, all equal until loaded.

        Args:
            network: Makes the activations.
        """
        self.network = network
        self.weights = nnx.List([nnx.Param(jnp.full(n, 1 / n)) for n in network.widths])

    def __call__(
        self, images: Float[Array, "B H W 3"], others: Float[Array, "B H W 3"]
    ) -> Float[Array, " B"]:
        """Distance of each pair: the sum over the layers of the mean over the places of `maps`.

        Args:
            images: RGB, nominally in [-1, 1] and not clipped; at least 16 pixels a side.
            others: Of the same shape; the distance is symmetric.
        """
        return sum(
            (layer.mean(axis=(1, 2)) for layer in self.maps(images, others)),
            start=jnp.zeros(len(images)),
        )

    def maps(
        self, images: Float[Array, "B H W 3"], others: Float[Array, "B H W 3"]
    ) -> list[Float[Array, "B _ _"]]:
        """Distances by layer and place, float32."""
        first, second = (self.network(normalize(x, _SHIFT, _SCALE)) for x in (images, others))
        maps = []
        for ours, theirs, weights in zip(first, second, self.weights, strict=True):
            difference = jnp.square(_unit(ours) - _unit(theirs))
            maps.append((difference * weights[...][None, None, None]).sum(axis=-1))
        return maps


def _unit(features: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Features divided by their length; where all are zero, so are they and their gradient."""
    features = features.astype(jnp.float32)
    square = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    # The root's slope at zero is infinite, and infinity times zero would be the gradient.
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return features / (length + _EPSILON)
