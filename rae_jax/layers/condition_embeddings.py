"""Embeddings of time and label."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.functional import Buffer
from rae_jax.typing import Array, DTypeLike, Float, Int

_STD = 0.02
NUM_FREQUENCIES = 256


def _small_linear(
    in_features: int, out_features: int, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Linear:
    """Kernel N(0, 0.02²), bias as torch starts it."""
    bound = in_features**-0.5

    def uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(
        in_features,
        out_features,
        kernel_init=jax.nn.initializers.normal(_STD),
        bias_init=uniform,
        dtype=dtype,
        rngs=rngs,
    )


class GaussianFourierEmbedding(nnx.Module):
    """MLP of [sin, cos](2 pi t W), the 256 frequencies W ~ N(0, 1) drawn once and never trained."""

    def __init__(self, hidden_size: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.frequencies = Buffer(jax.random.normal(rngs.params(), (NUM_FREQUENCIES,)))
        self.up = _small_linear(2 * NUM_FREQUENCIES, hidden_size, dtype=dtype, rngs=rngs)
        self.out = _small_linear(hidden_size, hidden_size, dtype=dtype, rngs=rngs)

    def __call__(self, t: Float[Array, " B"]) -> Float[Array, "B D"]:
        """Embeds times in [0, 1]; angles in float32."""
        angles = t.astype(jnp.float32)[:, None] * self.frequencies[...][None] * (2 * math.pi)
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return self.out(jax.nn.silu(self.up(waves)))


class LabelEmbedding(nnx.Module):
    """Table of num_classes + 1 rows; the last stands for no label."""

    def __init__(self, num_classes: int, hidden_size: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dtype = dtype
        rows = jax.nn.initializers.normal(_STD)(rngs.params(), (num_classes + 1, hidden_size))
        self.table = nnx.Param(rows)

    def __call__(self, labels: Int[Array, " B"]) -> Float[Array, "B D"]:
        """Rows of the labels."""
        return jnp.take(self.table[...], labels, axis=0).astype(self.dtype)
