import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.diffusion.flow import Flow
from rae_jax.diffusion.guidance import Guidance
from rae_jax.diffusion.ode import METHODS
from rae_jax.diffusion.paths import PATHS, LinearPath
from rae_jax.diffusion.sampler import Sampler, sample_noise
from rae_jax.diffusion.sde import Process
from rae_jax.diffusion.time_grids import sampling_interval, time_grid
from rae_jax.sharding.mesh import batch_sharding, make_mesh
from tests.diffusion.denoisers import NULL, Counted, Known

SHAPE, KEY = (3, 5, 4), jax.random.key(0)
LABELS = jnp.array([2, 0])


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
    conditional, null = np.cos([2.0, 0.0]), np.cos(NULL)
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


def test_scales_may_differ_within_a_batch():
    sample = sampler(guidance=Guidance("classifier_free", 5.0))
    predict, index = one_point("velocity", LinearPath()), jnp.arange(2)
    mixed = sample(predict, KEY, index, LABELS, guidance_scale=jnp.array([1.0, 2.5]))
    plain = sampler()(predict, KEY, index, LABELS)
    other = sampler(guidance=Guidance("classifier_free", 2.5))(predict, KEY, index, LABELS)
    np.testing.assert_array_equal(mixed[0], plain[0])
    np.testing.assert_allclose(mixed[1], other[1], rtol=0, atol=1e-5)


def test_autoguidance_goes_away_from_the_guide():
    model, guide = (Known(lambda x, t, labels, v=v: jnp.full_like(x, v)) for v in (1.0, 0.2))
    sample = sampler(guidance=Guidance("autoguidance", 1.5), final_step="zero")
    noise = sample_noise(KEY, jnp.arange(2), SHAPE)
    latents = sample(model, KEY, jnp.arange(2), LABELS, guide=guide)
    np.testing.assert_allclose(latents, noise - (0.2 + 1.5 * 0.8), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("guidance", "extra", "message"),
    [
        (Guidance(), {"guide": Known(None)}, "guidance 'none' uses no guide"),
        (Guidance(), {"guidance_scale": jnp.ones(2)}, "needs a guidance method, got 'none'"),
        (Guidance("autoguidance", 1.5), {}, "autoguidance needs a second, weaker denoiser"),
    ],
)
def test_what_nothing_would_use_or_is_missing_is_an_error(guidance, extra, message):
    with pytest.raises(ValueError, match=message):
        sampler(guidance=guidance)(Known(None), KEY, jnp.arange(2), LABELS, **extra)


def test_no_null_label_no_classifier_free_guidance():
    class Unlabelled(Known):
        null_label = None

    sample = sampler(guidance=Guidance("classifier_free", 1.5))
    with pytest.raises(ValueError, match="trained without label dropout"):
        sample(Unlabelled(None), KEY, jnp.arange(2), LABELS)


SAMPLERS = {
    **{method: Flow(method=method) for method in (*METHODS, "dopri5")},
    "stochastic euler": Process(LinearPath()),
    "stochastic heun": Process(LinearPath(), method="heun"),
}


@pytest.mark.parametrize("name", [*SAMPLERS, "shared"])
def test_sampling_is_one_program_with_one_loop(name):
    """No round trip to the host, and a network that is traced as often as a step evaluates it."""
    steps, traced = (0, 4, 9) if name == "shared" else (), []

    class Traced(Counted):
        def _count(self, what, labels):
            traced.append(what)

    grid = tuple(map(float, time_grid(50)))
    sample = Sampler(SHAPE, grid, SAMPLERS.get(name, Flow()), Guidance(), steps)
    inputs = Traced(), KEY, jnp.arange(2), LABELS
    program = str(jax.make_jaxpr(lambda: sample(*inputs))())
    assert "callback" not in program
    # As often as a step has nodes, not as often as there are steps.
    assert 0 < len(traced) <= 8
    loops = program.count(" scan[") + program.count(" while[")
    assert loops >= 1 if name == "dopri5" else loops == 1


@pytest.mark.long
@pytest.mark.parametrize("name", ["dopri5", "stochastic euler"])
def test_samples_do_not_depend_on_the_devices(name):
    guidance = Guidance("classifier_free", 1.5, (0.2, 0.8))
    grid = tuple(map(float, time_grid(9)))
    sample = Sampler(SHAPE, grid, SAMPLERS[name], guidance)
    model = Known(
        lambda x, t, labels: jnp.sin((1 + labels.astype(x.dtype))[:, None, None, None] * x)
    )

    def draw(index, labels):
        return sample(model, KEY, index, labels)

    index = np.arange(16, dtype=np.int32)
    labels = (index % 3).astype(np.int32)
    expected = jax.jit(draw)(index, labels)
    rows = batch_sharding(make_mesh(8, 1, 1))
    spread = jax.jit(draw, out_shardings=rows)(*jax.device_put((index, labels), rows))
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_array_equal(spread, expected)
    apart = jax.pmap(draw)(index.reshape(8, 2), labels.reshape(8, 2))
    np.testing.assert_array_equal(np.reshape(apart, expected.shape), expected)
