"""Norms of the diffusion transformers, as factories `norm(size, rngs=...)`; always in float32."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.vit_block import layer_norm

NormFactory = Callable[..., nnx.RMSNorm | nnx.LayerNorm]

_EPSILON = 1e-6
_TORCH_EPSILON = 1e-5


def rms_norm(size: int, *, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """X / sqrt(mean(x²) + 1e-6), with gain (arXiv:1910.07467)."""
    return nnx.RMSNorm(size, epsilon=_EPSILON, dtype=jnp.float32, rngs=rngs)


def plain_layer_norm(size: int, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm without gain and bias, epsilon 1e-6."""
    return layer_norm(size, _EPSILON, affine=False, rngs=rngs)


def affine_layer_norm(size: int, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with gain and bias and torch's epsilon of 1e-5."""
    return layer_norm(size, _TORCH_EPSILON, rngs=rngs)
