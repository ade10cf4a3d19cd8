"""Adaptive modulation of tokens by conditions (DiT, arXiv:2212.09748)."""

from rae_jax.typing import Array, Float


def modulate(
    tokens: Float[Array, "B N D"],
    shift: Float[Array, "B M D"] | None,
    scale: Float[Array, "B M D"],
) -> Float[Array, "B N D"]:
    """Gives tokens * (1 + scale) + shift, in the dtype of the tokens.

    Args:
        tokens: Normalised tokens.
        shift: None shifts nothing.
        scale: M is 1 (one condition per sample), N (one per token), or a divisor of N: condition m
            then acts on the m-th run of N / M tokens (DDT, arXiv:2504.05741).

    Raises:
        ValueError: M does not divide N.
    """
    runs = _runs(tokens, scale)
    runs = runs * (1 + scale.astype(tokens.dtype)[:, :, None])
    if shift is not None:
        runs = runs + shift.astype(tokens.dtype)[:, :, None]
    return runs.reshape(tokens.shape)


def gate(tokens: Float[Array, "B N D"], gates: Float[Array, "B M D"]) -> Float[Array, "B N D"]:
    """Gives tokens * gates; M as for `modulate`."""
    runs = _runs(tokens, gates) * gates.astype(tokens.dtype)[:, :, None]
    return runs.reshape(tokens.shape)


def _runs(
    tokens: Float[Array, "B N D"], conditions: Float[Array, "B M D"]
) -> Float[Array, "B M run D"]:
    batch, count, width = tokens.shape
    number = conditions.shape[1]
    if count % number:
        raise ValueError(
            f"the number of conditions must divide the number of tokens, got {number} conditions "
            f"for {count} tokens"
        )
    return tokens.reshape(batch, number, count // number, width)
