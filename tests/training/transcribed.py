"""Steps written out: clipping, AdamW and moving average in NumPy, and the same rule as ours."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.training.optimizers import adamw

# The large epsilon keeps Adam from blowing up rounding where gradients vanish.
RULE = {"epsilon": 1e-3, "weight_decay": 0.05, "clip_norm": 0.05}
BETAS, EMA_DECAY, SEED = (0.8, 0.9), 0.7, 5


def rate(step):
    return 0.01 / (1.0 + step)


def schedule(step):
    return rate(jnp.asarray(step, jnp.float32))


def optimizer():
    return adamw(schedule, beta_1=BETAS[0], beta_2=BETAS[1], **RULE)


class PlainAdamW:
    """AdamW with decoupled weight decay, gradients clipped by their common norm; see `RULE`."""

    def __init__(self, params):
        self.params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        self.ema = self.params
        self.first = jax.tree.map(np.zeros_like, self.params)
        self.second = jax.tree.map(np.zeros_like, self.params)
        self.count = 0

    def update(self, gradients):
        """Takes a step; gives the norm of the gradients before they are clipped."""
        gradients = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), gradients)
        norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradients)))
        scale = min(1.0, RULE["clip_norm"] / norm)
        size = rate(self.count)
        self.count += 1
        (b1, b2), n = BETAS, self.count
        average = jax.tree.map
        self.first = average(lambda m, g: b1 * m + (1 - b1) * scale * g, self.first, gradients)
        self.second = average(
            lambda v, g: b2 * v + (1 - b2) * (scale * g) ** 2, self.second, gradients
        )

        def stepped(value, m, v):
            direction = (m / (1 - b1**n)) / (np.sqrt(v / (1 - b2**n)) + RULE["epsilon"])
            return value - size * (direction + RULE["weight_decay"] * value)

        self.params = jax.tree.map(stepped, self.params, self.first, self.second)
        d = EMA_DECAY
        self.ema = jax.tree.map(lambda e, p: d * e + (1 - d) * p, self.ema, self.params)
        return norm


def assert_steps(tiny, batches):
    """Compiled steps are those by hand.

    Args:
        tiny: With `state` and `frozen`, the step `compiled`, and `by_hand`: parameters, batch and
            key to the loss and its gradients.
        batches: One per step.

    Returns:
        Per step the loss, the norm of its gradients, and the metrics.
    """
    state, plain, found = tiny.state, PlainAdamW(tiny.state.params), []
    for number, batch in enumerate(batches):
        key = jax.random.fold_in(jax.random.key(SEED), number)
        value, gradients = tiny.by_hand(state.params, batch, key)
        norm = plain.update(gradients)
        state, metrics = tiny.compiled(state, tiny.frozen, batch)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6)
        np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
        np.testing.assert_allclose(metrics["learning_rate"], rate(number), rtol=1e-6)
        assert int(state.step) == number + 1
        assert_trees_close(state.params, plain.params, 2e-6)
        assert_trees_close(state.ema, plain.ema, 2e-6)
        found.append((value, norm, metrics))
    return found


def assert_drawn_by_step(tiny, batch, least):
    """A step repeats itself bit for bit, and a later one draws a loss that is `least` away."""
    first, metrics = tiny.compiled(tiny.state, tiny.frozen, batch)
    again, _ = tiny.compiled(tiny.state, tiny.frozen, batch)
    assert_trees_close(first.params, again.params, 0)
    later = dataclasses.replace(tiny.state, step=jnp.int32(1))
    _, other = tiny.compiled(later, tiny.frozen, batch)
    assert abs(float(other["loss"]) - float(metrics["loss"])) > least


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
