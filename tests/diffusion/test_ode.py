import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.diffusion.ode import METHODS, integrate
from rae_jax.diffusion.paths import PATHS
from rae_jax.diffusion.predictions import to_velocity
from rae_jax.diffusion.time_grids import sampling_interval, time_grid
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.diffusion.closed_forms import FORMS

CASE = load_case("sampler_ode")
OURS = {"heun2": "heun"}
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")
RUNS = [run for run in CASE.config["runs"] if run["sampler"]["sampling_method"] in FIXED]


def grid_of(run):
    path, prediction = PATHS[run.get("path_type", "Linear").lower()], run.get("prediction")
    interval = sampling_interval(path, prediction or "velocity", run.get("sample_eps", 1e-3))
    steps = run["sampler"]["num_steps"]
    return time_grid(steps, shift=run["time_dist_shift"], interval=interval)


def states_of(run, network):
    path, prediction = PATHS[run.get("path_type", "Linear").lower()], run.get("prediction")

    def drift(latents, t):
        return to_velocity(network(latents, t), prediction or "velocity", latents, path, t)

    method = run["sampler"]["sampling_method"]
    start = jnp.asarray(nchw_to_nhwc(CASE.input("x")))
    method = OURS.get(method, method)
    return integrate(drift, start, grid_of(run), method=method, keep_states=True)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run["output"])
def test_states_match_upstream(run):
    network = FORMS[run.get("model", CASE.config["model"])]
    CASE.assert_close("states." + run["output"], nhwc_to_nchw(states_of(run, network)))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run["output"])
def test_grids_match_upstream(run):
    grid = grid_of(run)
    CASE.assert_close("grid." + run["grid"], grid)
    assert grid[-1] == pytest.approx(CASE.statement["records"]["last_time"][run["output"]], 2e-4)


TIMED = [run for run in RUNS if run.get("times")]


@pytest.mark.parametrize("run", TIMED, ids=lambda run: run["output"])
def test_evaluations_match_upstream_in_number_and_time(run):
    times = []

    def network(latents, t):
        times.append(float(t))
        return FORMS[CASE.config["model"]](latents, t)

    with jax.disable_jit():
        states_of(run, network)
    assert len(times) == CASE.statement["records"]["model_calls"][run["output"]]
    CASE.assert_close("evaluation_times." + run["output"], np.float32(times))


ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "heun3": 3, "rk4": 4}


@pytest.mark.parametrize("method", METHODS)
def test_order_of_convergence(method):
    # x' = 3 x sin(2t) has x(0) = x(1) exp(3 (cos(2) - 1) / 2).
    start, exact = jnp.ones((1, 1, 1, 1)), np.exp(1.5 * (np.cos(2.0) - 1))
    errors = []
    for count in (8, 16):
        times = jnp.linspace(1, 0, count + 1)
        end = integrate(lambda x, t: 3 * x * jnp.sin(2 * t), start, times, method=method)
        errors.append(abs(float(end[0, 0, 0, 0]) - exact))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[method], abs=0.2)


def test_the_last_state_is_what_comes_back():
    run = RUNS[0]
    start = jnp.asarray(nchw_to_nhwc(CASE.input("x")))
    drift = FORMS[CASE.config["model"]]
    states = integrate(drift, start, grid_of(run), keep_states=True)
    end = integrate(drift, start, grid_of(run))
    np.testing.assert_allclose(end, states[-1], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(states[0], start)


def test_the_straight_path_is_followed_exactly_to_zero():
    noise, clean = (jax.random.normal(jax.random.key(seed), (2, 3, 5, 4)) for seed in (0, 1))
    for method, shift in itertools.product(METHODS, (0.5, 6.9)):
        times = time_grid(7, shift=shift, final_step="zero")
        end = integrate(lambda x, t: noise - clean, noise, times, method=method)
        np.testing.assert_allclose(end, clean, rtol=0, atol=5e-6)


def test_state_is_float32_whatever_comes_in():
    def drift(latents, t):
        return -latents.astype(jnp.bfloat16)

    start = jnp.ones((1, 2, 2, 1), jnp.bfloat16)
    assert integrate(drift, start, time_grid(4)).dtype == jnp.float32


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="method must be one of .* got 'ddim'"):
        integrate(lambda x, t: x, jnp.zeros((1, 1, 1, 1)), time_grid(3), method="ddim")
