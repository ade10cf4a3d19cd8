import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.diffusion import adaptive
from rae_jax.diffusion.adaptive import integrate_adaptively
from rae_jax.diffusion.flow import Flow
from rae_jax.diffusion.guidance import guided
from rae_jax.diffusion.ode import METHODS
from rae_jax.diffusion.paths import PATHS
from rae_jax.diffusion.sampler import Sampler
from rae_jax.diffusion.sde import Diffusion, Process, sde_interval
from rae_jax.diffusion.time_grids import sampling_interval, time_grid
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.diffusion.closed_forms import FORMS
from tests.diffusion.denoisers import Known

CASE = load_case("sampler_ode")
GRIDS = ["10.plain", "10.shifted"]


@pytest.fixture(scope="module")
def solve():
    """Compiled solution of the golden problem: (latents, first, last, tolerances) -> latents."""
    start = jnp.asarray(nchw_to_nhwc(CASE.input("x")))

    def spread_form(latents, t):
        return FORMS[CASE.config["model"]](latents, t[:, None, None, None])

    def solved(grid, **tolerances):
        first, *_, last = map(float, CASE.output(f"grid.{grid}"))
        run = jax.jit(lambda x: integrate_adaptively(spread_form, x, first, last, **tolerances))
        return nhwc_to_nchw(run(start))

    return solved


def error(solved, grid):
    return np.abs(solved - CASE.output(f"states.exact.{grid}")[-1]).max()


@pytest.mark.long
def test_dopri5_approaches_the_exact_solution(solve):
    grid = "10.shifted"
    errors = [error(solve(grid, rtol=rtol, atol=rtol / 10), grid) for rtol in (1e-3, 1e-5, 1e-7)]
    # In proportion to the tolerance, down to four roundings of the largest value, 2.5.
    assert errors[1] < errors[0] / 20
    assert errors[2] < 1e-6


@pytest.mark.parametrize("grid", GRIDS)
def test_dopri5_differs_from_upstream_by_less_than_upstream_from_the_exact_solution(solve, grid):
    # Upstream takes the steps of a whole batch together, so its steps are others.
    ours, upstream = solve(grid, rtol=1e-3, atol=1e-6), CASE.output(f"states.dopri5.{grid}")[-1]
    assert (
        np.abs(ours - upstream).max()
        < CASE.statement["records"]["distance_from_exact"][f"dopri5.{grid}"]
    )


def decay(rates):
    def drift(latents, t):
        return rates[:, None, None, None] * jnp.sin(6 * t)[:, None, None, None] * latents

    return drift


@pytest.mark.long
def test_samples_of_dopri5_do_not_depend_on_their_batch():
    # The second sample needs several times the steps of the first.
    rates, start = jnp.array([0.1, 40.0]), jnp.ones((2, 2, 2, 1))
    run = {"rtol": 1e-3, "atol": 1e-6}
    both = integrate_adaptively(decay(rates), start, 1.0, 0.0, **run)
    alone = integrate_adaptively(decay(rates[:1]), start[:1], 1.0, 0.0, **run)
    np.testing.assert_array_equal(both[:1], alone)
    exact = np.exp(rates * (np.cos(6) - 1) / 6)
    np.testing.assert_allclose(both[:, 0, 0, 0], exact, rtol=5e-3)


def test_dopri5_gives_up_on_one_sample_alone(monkeypatch):
    monkeypatch.setattr(adaptive, "MAX_STEPS", 20)
    drift = decay(jnp.array([0.1, 1e4]))
    end = integrate_adaptively(drift, jnp.ones((2, 1, 1, 1)), 1.0, 0.0, rtol=1e-4, atol=1e-6)
    assert np.isfinite(end[0]).all() and np.isnan(end[1]).all()


def test_guidance_follows_the_time_of_each_sample():
    def drift(latents, t):
        return jnp.ones_like(latents)

    def reference(latents, t):
        return jnp.zeros_like(latents)

    # Twice as fast for t in [0.25, 0.75], where every sample is at a time of its own.
    both = guided(drift, reference, scale=2.0, interval=(0.25, 0.75))
    t = jnp.array([0.2, 0.5, 0.8])
    np.testing.assert_array_equal(both(jnp.zeros((3, 1, 1, 1)), t).ravel(), [1, 2, 1])
    end = integrate_adaptively(both, jnp.zeros((2, 1, 1, 1)), 1.0, 0.0, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(end, -1.5, rtol=1e-3)


def known(prediction, path):
    """Predictions for data that are one point."""

    def predict(latents, t, labels):
        t = t[:, None, None, None]
        noise = (latents - path.alpha(t) * 0.5) / path.sigma(t)
        clean = jnp.full_like(latents, 0.5)
        velocity = path.alpha_derivative(t) * clean + path.sigma_derivative(t) * noise
        return {"noise": noise, "clean": clean, "score": -noise / path.sigma(t)}.get(
            prediction, jnp.where(t == 1, noise, velocity)
        )

    return Known(predict)


def integrators(path, prediction):
    """Every method with a grid of few steps from the noisiest time."""
    interval = sampling_interval(path, prediction)
    for method in METHODS:
        yield Flow(path, prediction, method), time_grid(3, 2.0, interval=interval)
    for form in ("constant", "sbdm", "sigma", "linear", "decreasing", "increasing_decreasing"):
        for method, last_step, size in (("euler", "tweedie", 0.1), ("heun", "none", 0.0)):
            process = Process(path, prediction, Diffusion(form), method, last_step)
            yield process, time_grid(3, 2.0, interval=sde_interval(path, prediction, size))


@pytest.mark.long
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("prediction", ["velocity", "noise", "score", "clean"])
def test_samples_are_finite_from_the_noisiest_time_on(name, prediction):
    path, refused = PATHS[name], set()
    model, inputs = known(prediction, path), (jax.random.key(0), jnp.arange(2), jnp.zeros(2, int))
    for integrator, grid in integrators(path, prediction):
        try:
            sampler = Sampler((1, 1, 2), tuple(map(float, grid)), integrator)
        except ValueError as error:
            assert "negative or infinite" in str(error)
            refused.add(integrator.diffusion.form)
            continue
        with jax.disable_jit():
            assert np.all(np.isfinite(sampler(model, *inputs))), integrator
    # Only the VP path has as much noise as "sbdm" takes.
    assert refused == (set() if name == "vp" else {"sbdm"})
    from_one = prediction == "velocity" or (name == "vp" and prediction != "clean")
    assert (sampling_interval(path, prediction)[0] == 1) == from_one


@pytest.mark.parametrize("name", PATHS)
def test_dopri5_starts_at_the_noisiest_time_too(name):
    grid = time_grid(2, interval=sampling_interval(PATHS[name], "velocity"))
    flow = Flow(PATHS[name], "velocity", "dopri5", rtol=0.01)
    sampler = Sampler((1, 1, 2), tuple(map(float, grid)), flow)
    inputs = jax.random.key(0), jnp.arange(2), jnp.zeros(2, int)
    assert np.all(np.isfinite(sampler(known("velocity", PATHS[name]), *inputs)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ddim"}, "method must be one of .* got 'ddim'"),
        ({"prediction": "x0"}, "prediction must be one of"),
        ({"method": "dopri5", "rtol": 0.0}, "tolerances must be above 0, got 0.0"),
    ],
)
def test_impossible_flows_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Flow(**changes)
