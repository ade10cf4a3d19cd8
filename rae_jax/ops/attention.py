"""Scaled dot-product attention behind one name."""

from typing import Literal

import jax

from rae_jax.typing import Array, Float

Implementation = Literal["xla", "cudnn"]


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
        implementation: None lets JAX choose, "xla" or "cudnn" insist.
    """
    # It mixes bfloat16 with the float32 of the softmax, which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(query, key, value, implementation=implementation)
