import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.diffusion.flow import Flow
from rae_jax.diffusion.guidance import Guidance
from rae_jax.diffusion.ode import METHODS
from rae_jax.diffusion.paths import PATHS, LinearPath
from rae_jax.diffusion.sampler import Sampler, sample_noise
from rae_jax.diffusion.time_grids import sampling_interval, time_grid
from rae_jax.models.denoisers.base import DenoiserOutput

SHAPE, KEY = (3, 5, 4), jax.random.key(0)
LABELS = jnp.array([2, 0])


class Known:
    """A denoiser made of a function of (latents, t, labels)."""

    null_label = 3

    def __init__(self, function):
        self.function = function

    def __call__(self, noisy_latents, t, labels):
        return DenoiserOutput(self.function(noisy_latents, t, labels))


def sampler(
    prediction="velocity", path="linear", num_steps=9, final_step="grid", method="euler", **changes
):
    interval = sampling_interval(PATHS[path], prediction)
    grid = time_grid(num_steps, interval=interval, final_step=final_step)
    flow = Flow(PATHS[path], prediction, method)
    return Sampler(SHAPE, tuple(map(float, grid)), flow, **changes)


def test_noise_depends_on_key_and_number_alone():
    noise = sample_noise(KEY, jnp.arange(6), SHAPE)
    np.testing.assert_array_equal(
        sample_noise(KEY, jnp.array([4, 1]), SHAPE), noise[np.array([4, 1])]
    )
    assert np.all(sample_noise(jax.random.key(1), jnp.arange(6), SHAPE) != noise)
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)


def one_point(prediction, path):
    """What a denoiser that knows the data set, one point per label, predicts."""

    def predict(latents, t, labels):
        clean = jnp.cos(labels.astype(jnp.float32))[:, None, None, None] * jnp.ones(SHAPE)[None]
        t = t[:, None, None, None]
        noise = (latents - path.alpha(t) * clean) / path.sigma(t)
        velocity = path.alpha_derivative(t) * clean + path.sigma_derivative(t) * noise
        score = -noise / path.sigma(t)
        return {"velocity": velocity, "noise": noise, "score": score, "clean": clean}[prediction]

    return Known(predict)


@pytest.mark.parametrize("path", ["linear", "gvp"])
@pytest.mark.parametrize("prediction", ["velocity", "noise", "score", "clean"])
def test_every_prediction_leads_to_the_data(prediction, path):
    sample = sampler(prediction, path, 200, method="midpoint")
    predict = one_point(prediction, PATHS[path])
    latents = jax.jit(lambda: sample(predict, KEY, jnp.arange(2), LABELS))()
    expected = np.cos([2.0, 0.0])[:, None, None, None]
    # At the last time, 1e-3, that share of the noise is left.
    np.testing.assert_allclose(latents, np.broadcast_to(expected, latents.shape), atol=0.02)


def test_samples_do_not_depend_on_their_batch():
    sample, predict = sampler(), one_point("velocity", LinearPath())
    both = sample(predict, KEY, jnp.array([7, 8]), LABELS)
    alone = sample(predict, KEY, jnp.array([8]), LABELS[1:])
    np.testing.assert_allclose(both[1:], alone, rtol=0, atol=1e-6)


def test_guidance_goes_away_from_the_null_label():
    predict = one_point("velocity", LinearPath())
    plain, guided = (
        sampler(guidance=Guidance("classifier_free", scale))(predict, KEY, jnp.arange(2), LABELS)
        for scale in (1.0, 2.0)
    )
    conditional, null = np.cos([2.0, 0.0]), np.cos(3.0)
    expected = (conditional - null)[:, None, None, None]
    np.testing.assert_allclose(guided - plain, np.broadcast_to(expected, plain.shape), atol=0.02)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
def test_the_last_step_may_end_on_zero(prediction, method):
    sample = sampler(prediction, final_step="zero", method=method)
    latents = sample(Known(lambda x, t, labels: -x), KEY, jnp.arange(2), LABELS)
    assert np.all(np.isfinite(latents))


@pytest.mark.parametrize("method", METHODS)
def test_clean_predictions_are_not_asked_at_zero(method):
    if method in ("heun", "rk4"):
        with pytest.raises(ValueError, match="a clean prediction has no velocity at t = 0"):
            sampler("clean", final_step="zero", method=method)
        return
    sample = sampler("clean", final_step="zero", method=method)
    latents = sample(Known(lambda x, t, labels: -x), KEY, jnp.arange(2), LABELS)
    assert np.all(np.isfinite(latents))


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="method must be one of .* got 'ddim'"):
        sampler(method="ddim")
