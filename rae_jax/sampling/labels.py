"""Which class each sample is of."""

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.configuration.labels import parse_labels
from rae_jax.typing import Array, Key

_LABELS = 0
"""Purpose of the key; that of the noise has another."""


def class_labels(labels: str, num_images: int, num_classes: int, seed: int) -> np.ndarray:
    """Label of each sample, int32 [num_images].

    The n-th label depends on `labels`, `num_classes`, `seed` and n alone, never on how many there
    are: a larger set begins with the smaller one.

    Args:
        labels: "equal": every run of `num_classes` samples, from the first on, holds each class
            once, in an order of its own drawn from the seed; 50,000 samples of 1,000 classes are
            50 of each. "random": uniform, drawn from the seed. Otherwise a list of labels and
            ranges, "3,1,4" or "0-9,15", taken in turn.
        num_images: How many.
        num_classes: Labels are below this.
        seed: Of "equal" and "random".

    Raises:
        ValueError: A label that is none of the model's.
    """
    key = jax.random.fold_in(jax.random.key(jnp.uint32(seed)), _LABELS)
    if labels == "equal":
        count = -(-num_images // num_classes)
        orders = jax.vmap(lambda key: jax.random.permutation(key, num_classes))(_keys(key, count))
        return np.asarray(orders, np.int32).reshape(-1)[:num_images]
    if labels == "random":
        draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, num_classes))
        return np.asarray(draw(_keys(key, num_images)), np.int32)
    cycle = parse_labels(labels)
    highest = max(part[-1] for part in cycle)
    if highest >= num_classes:
        raise ValueError(f"labels must be below the model's {num_classes} classes, got {highest}")
    return np.resize(np.concatenate([np.asarray(part, np.int32) for part in cycle]), num_images)


def _keys(key: Key[Array, ""], count: int) -> Key[Array, " count"]:
    return jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.arange(count))
