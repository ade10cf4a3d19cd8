"""The pre-norm vision transformer block."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.attention import SelfAttention
from rae_jax.layers.linear import LinearFactory, xavier_linear
from rae_jax.layers.mlp import Mlp, SwiGLU, exact_gelu
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


class LayerScale(nnx.Module):
    """tokens * gain, one gain per channel (Touvron 2021, arXiv:2103.17239)."""

    def __init__(self, hidden_size: int, initial: float):
        self.gain = nnx.Param(jnp.full(hidden_size, initial, jnp.float32))

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Scaled tokens of the same dtype."""
        return tokens * self.gain[...].astype(tokens.dtype)[None, None]


@dataclasses.dataclass(frozen=True)
class ViTStyle:
    """Choices that all blocks of a vision transformer share.

    Attributes:
        activation: Of the feed-forward half, if it is no SwiGLU.
        use_swiglu: SwiGLU, else an MLP.
        layer_scale: Initial gain of both branches; None leaves them unscaled.
        linear: Factory of the linear layers.
    """

    activation: Callable[[Array], Array] = exact_gelu
    use_swiglu: bool = False
    layer_scale: float | None = None
    linear: LinearFactory = xavier_linear

    def feed_forward(
        self, hidden_size: int, inner_size: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> SwiGLU | Mlp:
        """The second half of a block."""
        if self.use_swiglu:
            return SwiGLU(hidden_size, inner_size, linear=self.linear, dtype=dtype, rngs=rngs)
        return Mlp(
            hidden_size,
            inner_size,
            activation=self.activation,
            linear=self.linear,
            dtype=dtype,
            rngs=rngs,
        )

    def scale(self, hidden_size: int) -> LayerScale | None:
        """What a branch ends in."""
        return None if self.layer_scale is None else LayerScale(hidden_size, self.layer_scale)


PLAIN = ViTStyle()
"""Exact GELU and no layer scale (ViT, MAE)."""


class ViTBlock(nnx.Module):
    """tokens + attention(norm(tokens)), then + mlp(norm(tokens)) (Dosovitskiy 2021, 2010.11929).

    Norms in float32 whatever the compute dtype.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        *,
        epsilon: float,
        style: ViTStyle = PLAIN,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Builds the block.

        Args:
            hidden_size: Width of the tokens.
            num_heads: Attention heads.
            intermediate_size: Inner width of the feed-forward half.
            epsilon: Of both norms.
            style: What the block consists of.
            dtype: Compute dtype.
            rngs: Source of the initial parameters.
        """
        self.norm_1 = layer_norm(hidden_size, epsilon, rngs=rngs)
        self.attention = SelfAttention(
            hidden_size, num_heads, linear=style.linear, dtype=dtype, rngs=rngs
        )
        self.scale_1 = nnx.data(style.scale(hidden_size))
        self.norm_2 = layer_norm(hidden_size, epsilon, rngs=rngs)
        self.mlp = style.feed_forward(hidden_size, intermediate_size, dtype=dtype, rngs=rngs)
        self.scale_2 = nnx.data(style.scale(hidden_size))

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Tokens of the same dtype: the residual stream keeps the caller's precision."""
        branch = self.attention(self.norm_1(tokens)).astype(tokens.dtype)
        tokens = tokens + (branch if self.scale_1 is None else self.scale_1(branch))
        branch = self.mlp(self.norm_2(tokens)).astype(tokens.dtype)
        return tokens + (branch if self.scale_2 is None else self.scale_2(branch))
