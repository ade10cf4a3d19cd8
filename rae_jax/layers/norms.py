"""Norms of the diffusion transformers, always computed in float32."""

import jax.numpy as jnp
from flax import nnx

from rae_jax.typing import Array, Float

_EPSILON = 1e-6
_TORCH_EPSILON = 1e-5


def rms_norm(hidden_size: int, *, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """X / sqrt(mean(x²) + 1e-6), with gain."""
    return nnx.RMSNorm(hidden_size, epsilon=_EPSILON, dtype=jnp.float32, rngs=rngs)


def affine_layer_norm(hidden_size: int, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with gain and bias and torch's epsilon of 1e-5."""
    return nnx.LayerNorm(hidden_size, epsilon=_TORCH_EPSILON, dtype=jnp.float32, rngs=rngs)


class PlainLayerNorm(nnx.Module):
    """(x - mean) / sqrt(variance + 1e-6), without gain and bias."""

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Normalises each token; float32."""
        tokens = tokens.astype(jnp.float32)
        centred = tokens - tokens.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        return centred / jnp.sqrt(variance + _EPSILON)
