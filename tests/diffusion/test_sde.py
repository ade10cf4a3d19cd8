import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.diffusion.paths import PATHS, LinearPath
from rae_jax.diffusion.sde import Diffusion, Process, sde_interval, step_noise
from rae_jax.diffusion.time_grids import time_grid
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.diffusion.closed_forms import FORMS

CASE = load_case("sampler_sde")
RECORDS = CASE.statement["records"]["runs"]
OURS = {"inccreasing-decreasing": "increasing_decreasing", "SBDM": "sbdm"}
RUNS = [run for run in CASE.config["runs"] if RECORDS[run["output"]]["status"] != "error"]


def process_of(run):
    sampler = run["sampler"]
    form = sampler["diffusion_form"]
    return Process(
        PATHS[run.get("path_type", "Linear").lower()],
        run.get("prediction", "velocity"),
        Diffusion(OURS.get(form, form), sampler["diffusion_norm"]),
        sampler["sampling_method"],
        str(sampler["last_step"]).lower(),
    )


def grid_of(run):
    process, sampler = process_of(run), run["sampler"]
    size = sampler["last_step_size"] if sampler["last_step"] else 0.0
    margin = run.get("sample_eps", 1e-3)
    interval = sde_interval(process.path, process.prediction, size, margin)
    return time_grid(sampler["num_steps"], run["time_dist_shift"], interval=interval)


def states_of(run, network=None):
    network = network or FORMS[run.get("model", CASE.config["model"])]
    start, noise = (jnp.asarray(nchw_to_nhwc(CASE.input(name))) for name in ("x", "noise"))
    process, grid = process_of(run), grid_of(run)
    return process.integrate(network, start, grid, lambda i: noise[i], keep_states=True)


def same_last_step(run):
    """Whether upstream's last step starts where the grid ends: not if the grid is shifted."""
    return run["sampler"]["last_step"] is None or run["time_dist_shift"] == 1


FINITE = [run for run in RUNS if "last_two." + run["output"] in CASE.answers]


@pytest.mark.parametrize("run", FINITE, ids=lambda run: run["output"])
def test_states_match_upstream(run):
    states = nhwc_to_nchw(states_of(run))
    if run["sampler"]["last_step"] is None:
        states = np.concatenate([states, states[-1:]])  # Upstream repeats the last state.
    answer = CASE.output("last_two." + run["output"]).copy()
    tolerance = CASE.statement["outputs"]["last_two." + run["output"]]["tolerance"]
    checked = 2 if same_last_step(run) else 1
    np.testing.assert_allclose(states[-2:][:checked], answer[:checked], rtol=0, atol=tolerance)
    assert np.all(np.isfinite(states)) and len(states) == RECORDS[run["output"]]["states"]


WHOLE = [run for run in RUNS if "states." + run["output"] in CASE.answers]


@pytest.mark.parametrize("run", WHOLE, ids=lambda run: run["output"])
def test_whole_trajectories_and_times_match_upstream(run):
    states = nhwc_to_nchw(states_of(run))
    tolerance = CASE.statement["outputs"]["states." + run["output"]]["tolerance"]
    answer = CASE.output("states." + run["output"])
    np.testing.assert_allclose(states[:-1], answer[:-1], rtol=0, atol=tolerance)
    times = []

    def network(latents, t):
        times.append(float(t))
        return FORMS[CASE.config["model"]](latents, t)

    with jax.disable_jit():
        states_of(run, network)
    # Upstream evaluates everything twice, and its last step at a time that is not shifted.
    once = CASE.output("evaluation_times." + run["output"])[:-2:2]
    np.testing.assert_allclose(times[:-1], once, rtol=0, atol=2e-6)
    assert times[-1] == pytest.approx(grid_of(run)[-1])


@pytest.mark.parametrize("run", FINITE, ids=lambda run: run["output"])
def test_grids_match_upstream(run):
    CASE.assert_close("grid." + run["grid"], grid_of(run))


UNDEFINED = [run for run in RUNS if run not in FINITE and "SBDM" in run["output"]]


@pytest.mark.parametrize("run", UNDEFINED, ids=lambda run: run["output"])
def test_diffusions_that_a_path_lacks_are_refused(run):
    with pytest.raises(ValueError, match="'sbdm' with norm .* is negative or infinite"):
        states_of(run)


HEUN = [run for run in RUNS if run not in FINITE and "SBDM" not in run["output"]]


@pytest.mark.parametrize("run", HEUN, ids=lambda run: run["output"])
def test_heun_ends_on_zero_where_upstream_ends_in_nan(run):
    assert "heun" in run["output"] and ".None." in run["output"]
    states = states_of(run)
    assert len(states) == 19 and np.all(np.isfinite(states))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    "form", ["constant", "SBDM", "sigma", "linear", "decreasing", "inccreasing-decreasing"]
)
def test_diffusions_match_upstream(name, form):
    case = load_case(f"transport_{name}")
    diffusion = Diffusion(OURS.get(form, form), case.config["diffusion_norm"])
    value = diffusion(PATHS[name], jnp.asarray(case.input("t")))
    case.assert_close(f"diffusion.{form}", value)


def test_step_noise_depends_on_key_number_and_step_alone():
    key, shape = jax.random.key(0), (3, 5, 4)
    both = step_noise(key, jnp.array([4, 9]), shape)
    alone = step_noise(key, jnp.array([9]), shape)
    np.testing.assert_array_equal(alone(jnp.int32(2)), both(jnp.int32(2))[1:])
    noise = both(jnp.int32(2))
    assert np.all(noise != both(jnp.int32(3))) and np.all(noise[0] != noise[1])


@pytest.mark.parametrize("form", ["constant", "sigma", "linear", "decreasing"])
@pytest.mark.parametrize("method", ["euler", "heun"])
def test_gaussian_data_come_out_gaussian(form, method):
    # Data N(0.5, 0.3²): the best velocity on the linear path is known.
    def velocity(latents, t):
        alpha, sigma = 1 - t, t
        variance = (0.3 * alpha) ** 2 + sigma**2
        clean = 0.5 + 0.09 * alpha * (latents - 0.5 * alpha) / variance
        return (latents - clean) / jnp.maximum(t, 1e-6)

    process = Process(LinearPath(), "velocity", Diffusion(form), method, "none")
    grid = time_grid(300, 2.0, interval=(1.0, 0.01))
    noise_key, step_key = jax.random.split(jax.random.key(0))
    start = jax.random.normal(noise_key, (64, 8, 8, 2))
    noise = step_noise(step_key, jnp.arange(64), (8, 8, 2))
    end = jax.jit(lambda x: process.integrate(velocity, x, grid, noise))(start)
    # What is left at the last time, 0.0198 after the shift.
    assert float(end.mean()) == pytest.approx(0.5 * 0.98, abs=0.02)
    assert float(end.std()) == pytest.approx(np.hypot(0.3 * 0.98, 0.02), abs=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "rk4"}, "method must be one of"),
        ({"last_step": "median"}, "last_step must be one of"),
    ],
)
def test_impossible_processes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Process(LinearPath(), **changes)


def test_impossible_grids_and_forms_are_refused():
    with pytest.raises(ValueError, match="diffusion form must be one of"):
        Diffusion("SBDM")
    with pytest.raises(ValueError, match=r"last_step_size must be in \[0, 1\)"):
        sde_interval(LinearPath(), "velocity", 1.0)
    grid = time_grid(5, interval=(1.0, 0.0))
    with pytest.raises(ValueError, match="needs a grid that ends above 0"):
        start = jnp.zeros((1, 1, 1, 1))
        Process(LinearPath()).integrate(lambda x, t: x, start, grid, lambda i: start)
