"""One optimiser step written out in NumPy: clipping, AdamW, moving average."""

import jax
import numpy as np


class PlainAdamW:
    """AdamW with decoupled weight decay, gradients clipped by their common norm."""

    def __init__(self, params, *, rate, betas, epsilon, weight_decay, clip_norm, ema_decay):
        self.params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        self.ema = self.params
        self.first = jax.tree.map(np.zeros_like, self.params)
        self.second = jax.tree.map(np.zeros_like, self.params)
        self.rate, self.betas, self.epsilon = rate, betas, epsilon
        self.weight_decay, self.clip_norm, self.ema_decay = weight_decay, clip_norm, ema_decay
        self.count = 0

    def update(self, gradients):
        """Takes a step; gives the norm of the gradients before they are clipped."""
        gradients = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), gradients)
        norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradients)))
        scale = min(1.0, self.clip_norm / norm)
        rate = self.rate(self.count)
        self.count += 1
        (b1, b2), n = self.betas, self.count
        average = jax.tree.map
        self.first = average(lambda m, g: b1 * m + (1 - b1) * scale * g, self.first, gradients)
        self.second = average(
            lambda v, g: b2 * v + (1 - b2) * (scale * g) ** 2, self.second, gradients
        )

        def stepped(value, m, v):
            direction = (m / (1 - b1**n)) / (np.sqrt(v / (1 - b2**n)) + self.epsilon)
            return value - rate * (direction + self.weight_decay * value)

        self.params = jax.tree.map(stepped, self.params, self.first, self.second)
        d = self.ema_decay
        self.ema = jax.tree.map(lambda e, p: d * e + (1 - d) * p, self.ema, self.params)
        return norm


def assert_frozen_are_arguments(step, state, frozen, batch):
    """The frozen arrays are no constants of the traced step."""

    def constants(step):
        return sum(np.size(value) for value in jax.make_jaxpr(step)(state, frozen, batch).consts)

    size = sum(leaf.size for leaf in jax.tree.leaves(frozen))
    closed_over = constants(lambda state, _, batch: step(state, frozen, batch))
    assert closed_over - constants(step) >= size


def assert_trees_close(actual, expected, tolerance):
    """Every leaf meets its counterpart, named in the failure."""
    found, wanted = (dict(jax.tree_util.tree_leaves_with_path(t)) for t in (actual, expected))
    assert list(found) == list(wanted)
    for path, value in wanted.items():
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(found[path], value, rtol=0, atol=tolerance, err_msg=name)
