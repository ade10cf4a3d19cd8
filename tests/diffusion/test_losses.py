import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.diffusion.losses import FlowMatching
from rae_jax.diffusion.paths import PATHS
from rae_jax.diffusion.time_sampling import TimeDistribution, training_interval

KEY = jax.random.key(3)


def latents(count=6):
    return jax.random.normal(jax.random.key(0), (count, 3, 5, 4))


def zero(noisy_latents, t):
    return jnp.zeros_like(noisy_latents)


def test_samples_depend_on_key_and_index_alone():
    matching, clean = FlowMatching(), latents()
    whole = matching.loss(zero, clean, KEY)
    np.testing.assert_array_equal(matching.loss(zero, clean[:2], KEY), whole[:2])
    rows = jnp.array([4, 1])
    np.testing.assert_array_equal(matching.loss(zero, clean[rows], KEY, rows), whole[rows])
    assert np.all(matching.loss(zero, clean, jax.random.key(4)) != whole)
    assert np.unique(whole).size == 6


def test_the_right_answer_costs_nothing():
    clean = latents()
    for prediction in ("velocity", "noise", "clean"):
        matching = FlowMatching(prediction=prediction)
        t, noise = matching.draw(clean, KEY)
        answer = {"velocity": noise - clean, "noise": noise, "clean": clean}[prediction]
        loss = matching.loss(lambda *_, answer=answer: answer, clean, KEY)
        np.testing.assert_allclose(loss, 0, atol=1e-12)


def test_the_network_sees_the_drawn_point():
    matching, clean, seen = FlowMatching(), latents(), []
    matching.loss(lambda *arguments: seen.append(arguments) or arguments[0], clean, KEY)
    t, noise = matching.draw(clean, KEY)
    np.testing.assert_array_equal(seen[0][1], t)
    np.testing.assert_array_equal(seen[0][0], PATHS["linear"].noisy_latents(clean, noise, t))


def test_noise_is_standard_normal_and_times_follow_their_distribution():
    matching = FlowMatching(times=TimeDistribution("logit_normal", logit_mean=0.5, logit_std=0.7))
    t, noise = jax.jit(matching.draw)(jnp.zeros((4000, 2, 2, 4)), KEY)
    # Five standard errors of the mean and of the variance.
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    logits = np.log(t / (1 - t))
    assert abs(logits.mean() - 0.5) < 5 * 0.7 / np.sqrt(4000)
    assert abs(logits.std() - 0.7) < 5 * 0.7 / np.sqrt(8000)
    assert abs(np.corrcoef(t, noise[:, 0, 0, 0])[0, 1]) < 5 / np.sqrt(4000)


@pytest.mark.parametrize(("path", "prediction"), [("linear", "noise"), ("vp", "velocity")])
def test_times_keep_off_the_ends_that_the_prediction_cannot_reach(path, prediction):
    matching = FlowMatching(PATHS[path], prediction, weight="velocity")
    t, _ = jax.jit(matching.draw)(jnp.zeros((5000, 1, 1, 1)), KEY)
    low, high = training_interval(PATHS[path], prediction)
    assert low <= t.min() < low + 2e-3 and high - 2e-3 < t.max() <= high


def test_bfloat16_predictions_are_compared_in_float32():
    matching, clean = FlowMatching(), latents()
    loss = matching.loss(lambda x, t: jnp.zeros_like(x, jnp.bfloat16), clean, KEY)
    np.testing.assert_array_equal(loss, matching.loss(zero, clean, KEY))
    assert loss.dtype == jnp.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction": "x0"}, "prediction must be one of"),
        ({"weight": "min_snr"}, "weight must be one of"),
        ({"prediction": "clean", "weight": "likelihood"}, "a clean prediction takes"),
    ],
)
def test_impossible_losses_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        FlowMatching(**changes)
