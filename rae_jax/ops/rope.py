"""Rotary position embedding on a two-dimensional grid (RoFormer, arXiv:2104.09864)."""

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.typing import Array, Float


def rotary_table(
    height: int, width: int, head_dim: int, theta: float = 10000.0
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of every token's angles, float32 [height * width, head_dim].

    The first half of the channels turns with the row, the second with the column; neighbouring
    channels are one pair and share an angle. Frequencies are theta^(-i / (head_dim / 4)).

    Raises:
        ValueError: `head_dim` is not a multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(
            f"rotary positions need a head_dim that is a multiple of 4, got {head_dim}"
        )
    quarter = head_dim // 4
    frequencies = theta ** (-np.arange(quarter) / quarter)
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    angles = np.concatenate(
        [np.outer(rows, frequencies), np.outer(columns, frequencies)], axis=1
    ).repeat(2, axis=1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def apply_rotary(
    x: Float[Array, "B N heads head_dim"],
    cos: Float[Array | np.ndarray, "N head_dim"],
    sin: Float[Array | np.ndarray, "N head_dim"],
) -> Float[Array, "B N heads head_dim"]:
    """Turns each pair (a, b) of neighbouring channels by its angle, in float32."""
    # A TPU lays the last axis of the pairs, two numbers, over its 128 lanes, and takes twice as
    # long for attention as with a product.
    turned = jax.lax.platform_dependent(x, tpu=_turned_by_product, default=_turned_by_pairs)
    cosines, sines = jnp.asarray(cos)[None, :, None], jnp.asarray(sin)[None, :, None]
    return (x.astype(jnp.float32) * cosines + turned * sines).astype(x.dtype)


def _turned_by_pairs(
    x: Float[Array, "B N heads head_dim"],
) -> Float[Array, "B N heads head_dim"]:
    """(-b, a) of each pair (a, b), float32."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    return jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)


def _turned_by_product(
    x: Float[Array, "B N heads head_dim"],
) -> Float[Array, "B N heads head_dim"]:
    """The same bit for bit, as the matrix has one number in each column, and that is 1 or -1."""
    size = x.shape[-1]
    turn = np.zeros((size, size), np.float32)
    first = np.arange(0, size, 2)
    turn[first + 1, first], turn[first, first + 1] = -1, 1
    return jax.lax.dot_general(
        x,
        jnp.asarray(turn, x.dtype),
        (((x.ndim - 1,), (0,)), ((), ())),
        # Of float32 a TPU would multiply the first 8 bits alone.
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
