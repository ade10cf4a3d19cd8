"""Attention without logits in the main memory, by the Pallas kernel for TPUs that JAX ships.

At 1024 tokens XLA's own attention writes and reads half a gigabyte of logits for four images, and
here none; at 256 tokens XLA keeps them on the chip and is as good (docs/tpu.md).
"""

import jax

from rae_jax.typing import Array, Float

LARGEST_BLOCK = 512
"""Tokens that the kernel takes at a time, of longer rows."""

_LANES = 128


def flash_attention(
    query: Float[Array, "B N heads head_dim"],
    key: Float[Array, "B N heads head_dim"],
    value: Float[Array, "B N heads head_dim"],
) -> Float[Array, "B N heads head_dim"]:
    """Softmax attention as `attention`, on TPUs alone.

    XLA cannot cut the kernel over devices: on a mesh, call it by `sharding.constrain.on_own_heads`.

    Raises:
        ValueError: The number of tokens does not divide into the kernel's blocks.
    """
    count = query.shape[1]
    block = min(count, LARGEST_BLOCK)
    if count % _LANES or count % block:
        raise ValueError(
            f"flash attention takes 128, 256 or 384 tokens, or a multiple of {LARGEST_BLOCK}, got "
            f"{count}; leave implementation at None"
        )
    # Importing it takes long, and few need it.
    from jax.experimental.pallas.ops.tpu import flash_attention as kernels

    names = (
        *("block_q", "block_k_major", "block_k", "block_q_major_dkv", "block_k_major_dkv"),
        *("block_k_dkv", "block_q_dkv", "block_k_major_dq", "block_k_dq", "block_q_dq"),
    )
    blocks = kernels.BlockSizes(block_b=1, **dict.fromkeys(names, block))
    by_head = [tokens.swapaxes(1, 2) for tokens in (query, key, value)]
    # The kernel mixes dtypes and ranks, which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        mixed = kernels.flash_attention(
            *by_head, sm_scale=query.shape[-1] ** -0.5, block_sizes=blocks
        )
    return mixed.swapaxes(1, 2)
