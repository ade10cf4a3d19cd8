"""The pre-norm vision transformer block."""

import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.attention import SelfAttention
from rae_jax.layers.linear import LinearFactory, xavier_linear
from rae_jax.layers.mlp import Mlp, exact_gelu
from rae_jax.typing import Array, DTypeLike, Float


def layer_norm(
    hidden_size: int, epsilon: float, *, affine: bool = True, rngs: nnx.Rngs
) -> nnx.LayerNorm:
    """LayerNorm in float32, with or without gain and bias.

    The variance is taken about the mean: the faster E[x²] - E[x]² loses digits that an epsilon of
    1e-12 does not forgive.
    """
    return nnx.LayerNorm(
        hidden_size,
        epsilon=epsilon,
        use_bias=affine,
        use_scale=affine,
        use_fast_variance=False,
        dtype=jnp.float32,
        rngs=rngs,
    )


class ViTBlock(nnx.Module):
    """tokens + attention(norm(tokens)), then + mlp(norm(tokens)) (Dosovitskiy 2021, 2010.11929).

    Exact GELU; norms in float32 whatever the compute dtype.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        *,
        epsilon: float,
        linear: LinearFactory = xavier_linear,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm_1 = layer_norm(hidden_size, epsilon, rngs=rngs)
        self.attention = SelfAttention(
            hidden_size, num_heads, linear=linear, dtype=dtype, rngs=rngs
        )
        self.norm_2 = layer_norm(hidden_size, epsilon, rngs=rngs)
        self.mlp = Mlp(
            hidden_size,
            intermediate_size,
            activation=exact_gelu,
            linear=linear,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Tokens of the same dtype: the residual stream keeps the caller's precision."""
        tokens = tokens + self.attention(self.norm_1(tokens)).astype(tokens.dtype)
        return tokens + self.mlp(self.norm_2(tokens)).astype(tokens.dtype)
