"""Kernel Inception Distance: an unbiased squared maximum mean discrepancy of features."""

import numpy as np

from rae_jax.typing import Float


def kernel_distance(
    samples: Float[np.ndarray, "N D"],
    reference: Float[np.ndarray, "M _"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> tuple[float, float]:
    """Mean and deviation over random subsets (Binkowski 2018, arXiv:1801.01401).

    With the kernel (x·y / D + 1)³, the subsets drawn as torch-fidelity draws them.

    Raises:
        ValueError: Fewer rows than a subset, or features of two widths.
    """
    if samples.shape[1] != reference.shape[1]:
        raise ValueError(
            f"features must have one width, got {samples.shape[1]} and {reference.shape[1]}"
        )
    if min(len(samples), len(reference)) < subset_size:
        raise ValueError(
            f"subsets of {subset_size} need at least as many samples and references, got "
            f"{len(samples)} and {len(reference)}; set a smaller subset_size"
        )
    draws = np.random.RandomState(seed)
    distances = []
    for _ in range(subsets):
        first = samples[draws.choice(len(samples), subset_size, replace=False)]
        second = reference[draws.choice(len(reference), subset_size, replace=False)]
        distances.append(_discrepancy(first.astype(np.float64), second.astype(np.float64)))
    return float(np.mean(distances)), float(np.std(distances))


def _discrepancy(first: Float[np.ndarray, "N D"], second: Float[np.ndarray, "_ D"]) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(values: np.ndarray) -> float:
        table = kernel(values, values)
        return (table.sum() - np.trace(table)) / (len(values) * (len(values) - 1))

    return within(first) + within(second) - 2 * kernel(first, second).mean()
