"""Embeddings of time and label."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.functional import Buffer
from rae_jax.layers.linear import LinearFactory, xavier_linear
from rae_jax.typing import Array, DTypeLike, Float, Int

_STD = 0.02
NUM_FREQUENCIES = 256


class GaussianFourierEmbedding(nnx.Module):
    """Time through an MLP of [sin, cos](2 pi t W) (Tancik 2020, arXiv:2006.10739).

    The 256 frequencies W ~ N(0, 1) are drawn once and never trained; files hold them. The MLP's
    kernels start from N(0, 0.02²), its biases as those of `linear`.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        linear: LinearFactory = xavier_linear,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.frequencies = Buffer(jax.random.normal(rngs.params(), (NUM_FREQUENCIES,)))
        self.up = linear(2 * NUM_FREQUENCIES, hidden_size, dtype=dtype, rngs=rngs)
        self.out = linear(hidden_size, hidden_size, dtype=dtype, rngs=rngs)
        for layer in (self.up, self.out):
            layer.kernel[...] = _STD * jax.random.normal(rngs.params(), layer.kernel.shape)

    def __call__(self, t: Float[Array, " B"]) -> Float[Array, "B D"]:
        """Embeds times in [0, 1]; angles in float32."""
        angles = t.astype(jnp.float32)[:, None] * self.frequencies[...][None] * (2 * math.pi)
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return self.out(jax.nn.silu(self.up(waves)))


class LabelEmbedding(nnx.Module):
    """Table with one row per class and, last, one for no label; starts from N(0, 0.02²).

    `with_null` False leaves the last row out: published models that were trained without label
    dropout have none.
    """

    def __init__(
        self, num_classes: int, hidden_size: int, *, with_null: bool = True, rngs: nnx.Rngs
    ):
        shape = (num_classes + with_null, hidden_size)
        self.table = nnx.Param(_STD * jax.random.normal(rngs.params(), shape))

    def __call__(self, labels: Int[Array, " B"]) -> Float[Array, "B D"]:
        """Rows of the labels, float32; NaN for labels that have none."""
        return jnp.take(self.table[...], labels, axis=0, mode="fill")
