"""Adaptive modulation of tokens by conditions (DiT, arXiv:2212.09748)."""

from rae_jax.typing import Array, Float


def modulate(
    tokens: Float[Array, "B N D"], shift: Float[Array, "B M D"], scale: Float[Array, "B M D"]
) -> Float[Array, "B N D"]:
    """Gives tokens * (1 + scale) + shift; M is 1 (per sample) or N (per token)."""
    return tokens * (1 + scale) + shift
