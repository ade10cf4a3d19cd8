"""Inception Score: exp of the mean divergence of class probabilities from their average."""

import numpy as np
import scipy.special

from rae_jax.typing import Float

ADM_BLOCK = 5000


def inception_score(
    logits: Float[np.ndarray, "N K"], *, splits: int = 10, seed: int | None = 2020
) -> tuple[float, float]:
    """Mean and deviation over splits (Salimans 2016, arXiv:1606.03498), as torch-fidelity.

    Args:
        logits: Of a classifier, one row per image.
        splits: Parts of nearly equal size, each scored by itself.
        seed: Of the permutation before the split; None keeps the order.

    Raises:
        ValueError: Fewer images than splits.
    """
    if len(logits) < splits:
        raise ValueError(f"{splits} splits need as many images, got {len(logits)}")
    if seed is not None:
        logits = logits[np.random.RandomState(seed).permutation(len(logits))]
    cuts = [len(logits) * part // splits for part in range(1, splits)]
    scores = [_score(part) for part in np.split(logits, cuts)]
    return float(np.mean(scores)), float(np.std(scores))


def adm_inception_score(logits: Float[np.ndarray, "N K"], *, block: int = ADM_BLOCK) -> float:
    """The score of the ADM evaluation suite: mean over blocks of rows in their order."""
    return float(np.mean([_score(logits[i : i + block]) for i in range(0, len(logits), block)]))


def _score(logits: Float[np.ndarray, "N K"]) -> float:
    logarithms = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
    probabilities = np.exp(logarithms)
    average = np.log(probabilities.mean(axis=0, keepdims=True))
    divergence = (probabilities * (logarithms - average)).sum(axis=1)
    return float(np.exp(divergence.mean()))
