"""Self-attention of transformer blocks."""

from collections.abc import Callable

import numpy as np
from flax import nnx

from rae_jax.layers.linear import LinearFactory, xavier_linear
from rae_jax.ops.attention import attention
from rae_jax.ops.rope import apply_rotary
from rae_jax.typing import Array, DTypeLike, Float

Rotary = tuple[Float[Array | np.ndarray, "N head_dim"], Float[Array | np.ndarray, "N head_dim"]]
"""Cosines and sines of every token's angles."""


class SelfAttention(nnx.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values.

    The fused outputs are ordered (query, key, value), each (head, head_dim).
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        qk_norm: Callable[..., nnx.Module] | None = None,
        linear: LinearFactory = xavier_linear,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Builds the projections.

        Args:
            hidden_size: Width of the tokens.
            num_heads: Must divide `hidden_size`.
            qkv_bias: Whether the fused projection has a bias.
            qk_norm: Called as `qk_norm(head_dim, rngs=rngs)` once for queries, once for keys.
            linear: Factory of both projections.
            dtype: Compute dtype.
            rngs: Source of the initial parameters.

        Raises:
            ValueError: If the heads do not divide the width.
        """
        if hidden_size % num_heads:
            raise ValueError(
                f"num_heads must divide hidden_size, got {num_heads} heads for {hidden_size}"
            )
        self.num_heads = num_heads
        head_dim = hidden_size // num_heads
        self.qkv = linear(hidden_size, 3 * hidden_size, use_bias=qkv_bias, dtype=dtype, rngs=rngs)
        self.query_norm = nnx.data(qk_norm(head_dim, rngs=rngs) if qk_norm else None)
        self.key_norm = nnx.data(qk_norm(head_dim, rngs=rngs) if qk_norm else None)
        self.out = linear(hidden_size, hidden_size, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(
        self, tokens: Float[Array, "B N D"], rotary: Rotary | None = None
    ) -> Float[Array, "B N D"]:
        """Mixes the tokens; `rotary` turns (normalised) queries and keys by their positions."""
        batch, count, width = tokens.shape
        fused = self.qkv(tokens).reshape(batch, count, 3, self.num_heads, width // self.num_heads)
        query, key, value = fused[:, :, 0], fused[:, :, 1], fused[:, :, 2]
        if self.query_norm is not None and self.key_norm is not None:
            query = self.query_norm(query).astype(value.dtype)
            key = self.key_norm(key).astype(value.dtype)
        if rotary is not None:
            query, key = apply_rotary(query, *rotary), apply_rotary(key, *rotary)
        mixed = attention(query, key, value)
        return self.out(mixed.reshape(batch, count, width))
