"""Scaled dot-product attention behind one name."""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from rae_jax.ops.flash_attention import LARGEST_BLOCK, flash_attention
from rae_jax.sharding.constrain import on_own_heads
from rae_jax.typing import Array, Float

Implementation = Literal["xla", "cudnn"]

_LONG = 1024
"""Tokens from which on a TPU cannot keep logits on its chip (docs/tpu.md)."""

_HEADS_AT_A_TIME = 8
_LARGE = 2**20
"""Logits, 4 MB of them, from which on they fall out of the caches of a processor."""


def attention(
    query: Float[Array, "B N heads head_dim"],
    key: Float[Array, "B M heads head_dim"],
    value: Float[Array, "B M heads head_dim"],
    *,
    implementation: Implementation | None = None,
) -> Float[Array, "B N heads head_dim"]:
    """Softmax attention over all tokens, scaled by 1/sqrt(head_dim); logits in float32.

    Args:
        query: Queries.
        key: Keys.
        value: Values.
        implementation: None takes what is fast on the platform, "xla" or "cudnn" insist.
    """

    def whole(query: Array, key: Array, value: Array) -> Array:
        # It mixes bfloat16 with the float32 of the softmax, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            return jax.nn.dot_product_attention(query, key, value, implementation=implementation)

    batch, count, heads, _ = query.shape
    if implementation is None and value.dtype == jnp.bfloat16 and _is_long(count, key.shape[1]):
        kernel = on_own_heads(flash_attention, batch, heads)
        if kernel is not None:
            return jax.lax.platform_dependent(query, key, value, tpu=kernel, default=whole)
    small = batch * heads * count * key.shape[1] < _LARGE
    # One after another, heads that lie on several devices would have to be moved. Reduced
    # precision is for accelerators, whose programs shall hold nothing but their own attention.
    several = jax.sharding.get_abstract_mesh().size > 1
    if implementation is not None or small or several or value.dtype != jnp.float32:
        return whole(query, key, value)
    return jax.lax.platform_dependent(query, key, value, cpu=_few_heads_at_a_time, default=whole)


def _is_long(queries: int, keys: int) -> bool:
    """Whether the kernel for TPUs takes so many tokens, and is faster then."""
    return queries == keys >= _LONG and keys % LARGEST_BLOCK == 0


def _few_heads_at_a_time(
    query: Float[Array, "B N heads head_dim"],
    key: Float[Array, "B M heads head_dim"],
    value: Float[Array, "B M heads head_dim"],
) -> Float[Array, "B N heads head_dim"]:
    """Attention whose logits stay in the caches, as the backward pass makes them anew."""
    batch, count, heads, size = query.shape
    together = math.gcd(batch * heads, _HEADS_AT_A_TIME)

    def in_groups(tokens: Array, order: tuple[int, ...]) -> Array:
        ordered = tokens.transpose(order)
        return ordered.reshape(-1, together, *ordered.shape[2:])

    def mix(group: tuple[Array, Array, Array]) -> Array:
        query, key, value = group
        return jax.nn.softmax(query @ key * size**-0.5) @ value

    rows = in_groups(query, (0, 2, 1, 3)), in_groups(key, (0, 2, 3, 1))
    groups = *rows, in_groups(value, (0, 2, 1, 3))
    mixed = jax.lax.map(jax.checkpoint(mix, prevent_cse=False), groups)
    return mixed.reshape(batch, heads, count, size).transpose(0, 2, 1, 3)
