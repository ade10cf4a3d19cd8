import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.diffusion.guidance import autoguidance, classifier_free, unguided
from rae_jax.diffusion.ode import integrate
from rae_jax.diffusion.time_grids import time_grid

LABELS = jnp.array([3, 1])
LATENTS = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
NULL = 10


def velocity(latents, t, labels):
    return jnp.sin(latents) * (t + labels.astype(jnp.float32))[:, None, None, None]


def guide(latents, t, labels):
    return jnp.cos(latents) * (t - labels.astype(jnp.float32))[:, None, None, None]


class Counter:
    """A velocity that counts how many rows with and without label really ran."""

    def __init__(self, function=velocity):
        self.function, self.calls, self.rows = function, {"label": 0, "null": 0}, set()

    def __call__(self, latents, t, labels):
        def note(labels):
            self.calls["null" if np.all(labels == NULL) else "label"] += 1
            self.rows.add(len(labels))

        jax.debug.callback(note, labels)
        return self.function(latents, t, labels)


def both(t):
    t = jnp.full((2,), t)
    return velocity(LATENTS, t, LABELS), velocity(LATENTS, t, jnp.full((2,), NULL))


def test_classifier_free_formula_inside_the_closed_interval():
    drift = classifier_free(velocity, LABELS, NULL, scale=1.5, interval=(0.2, 0.7))
    for t in (0.2, 0.5, 0.7):
        label, null = both(t)
        expected = null + 1.5 * (label - null)
        np.testing.assert_allclose(drift(LATENTS, jnp.float32(t)), expected, rtol=1e-5, atol=1e-6)
    for t in (0.19, 0.71):
        np.testing.assert_array_equal(drift(LATENTS, jnp.float32(t)), both(t)[0])


def test_autoguidance_formula():
    drift = autoguidance(velocity, guide, LABELS, scale=1.42)
    t = jnp.full((2,), 0.4)
    main, other = velocity(LATENTS, t, LABELS), guide(LATENTS, t, LABELS)
    expected = other + 1.42 * (main - other)
    np.testing.assert_allclose(drift(LATENTS, jnp.float32(0.4)), expected, rtol=1e-5, atol=1e-6)


def test_every_sample_may_have_its_own_scale():
    drift = classifier_free(velocity, LABELS, NULL, scale=jnp.array([1.0, 3.0]))
    label, null = both(0.5)
    guided = drift(LATENTS, jnp.float32(0.5))
    np.testing.assert_allclose(guided[0], label[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(guided[1], (3 * label - 2 * null)[1], rtol=1e-5, atol=1e-6)


def evaluations(counter, drift):
    end = jax.jit(lambda x: integrate(drift, x, time_grid(11)))(LATENTS)
    jax.block_until_ready(end)
    jax.effects_barrier()
    return counter.calls


def test_references_are_evaluated_inside_the_interval_only():
    counter = Counter()
    drift = classifier_free(counter, LABELS, NULL, scale=2.0, interval=(0.25, 0.65))
    inside = np.sum((time_grid(11)[:-1] >= 0.25) & (time_grid(11)[:-1] <= 0.65))
    assert 0 < inside < 10
    assert evaluations(counter, drift) == {"label": 10, "null": inside}
    assert counter.rows == {2}  # The batch is never doubled.


@pytest.mark.parametrize("scale", [1.0, jnp.float32(1.0), jnp.ones(2)])
def test_references_are_not_evaluated_at_scale_one(scale):
    counter = Counter()
    drift = classifier_free(counter, LABELS, NULL, scale=scale)
    assert evaluations(counter, drift) == {"label": 10, "null": 0}


def test_autoguidance_evaluates_each_model_once_per_step():
    main, other = Counter(), Counter(guide)
    drift = autoguidance(main, other, LABELS, scale=1.5, interval=(0.0, 0.55))
    assert evaluations(main, drift) == {"label": 10, "null": 0}
    assert other.calls == {"label": 5, "null": 0}
    assert main.rows == other.rows == {2}


def test_unguided_evaluates_once_per_step():
    counter = Counter()
    assert evaluations(counter, unguided(counter, LABELS)) == {"label": 10, "null": 0}


def test_intervals_must_be_ordered():
    with pytest.raises(ValueError, match="guidance interval must satisfy"):
        classifier_free(velocity, LABELS, NULL, scale=2.0, interval=(0.7, 0.2))
