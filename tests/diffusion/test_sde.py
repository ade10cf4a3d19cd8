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


@pytest.mark.long
def test_step_noise_depends_on_key_number_and_step_alone():
    key, shape = jax.random.key(0), (3, 5, 4)
    both = step_noise(key, jnp.array([4, 9]), shape)
    alone = step_noise(key, jnp.array([9]), shape)
    np.testing.assert_array_equal(alone(jnp.int32(2)), both(jnp.int32(2))[1:])
    noise = both(jnp.int32(2))
    assert np.all(noise != both(jnp.int32(3))) and np.all(noise[0] != noise[1])
    many = step_noise(key, jnp.arange(400), shape)(jnp.int32(0))
    # Five standard errors of the mean and of the variance.
    assert abs(many.mean()) < 5 / np.sqrt(many.size)
    assert abs(many.var() - 1) < 5 * np.sqrt(2 / many.size)


class Gaussian:
    """Data N(0.5, 0.3²) on the linear path: the best velocity, and what every process leads to.

    As that velocity is linear in the latents, the end of a run is a sum of what it started from and
    of the noise of each step with factors that can be read off: its distribution needs no draws.
    """

    mean, std = 0.5, 0.3
    last = 0.1

    def velocity(self, latents, t):
        alpha = 1 - t
        variance = (self.std * alpha) ** 2 + t**2
        clean = self.mean + self.std**2 * alpha * (latents - self.mean * alpha) / variance
        return (latents - clean) / t

    def factors(self, process, num_steps):
        """Of 1, of the start and of the noise of each step."""
        start = np.zeros((num_steps + 2, 1, 1, 1), np.float32)
        start[1] = 1
        rows = jnp.arange(num_steps + 2)[:, None, None, None]
        times = np.linspace(1, self.last, num_steps + 1, dtype=np.float32)

        @jax.jit
        def run(start):
            noise = lambda step: (rows == step + 2).astype(jnp.float32)  # noqa: E731
            return process.integrate(self.velocity, start, times, noise)

        end = np.asarray(run(start), np.float64).ravel()
        return end[0], end[1] - end[0], end[2:] - end[0]

    def weak_error(self, process, num_steps):
        """Of mean and standard deviation; noise at t = 1 and data there are the same."""
        constant, of_start, of_noise = self.factors(process, num_steps)
        alpha = 1 - self.last
        std = np.sqrt(of_start**2 + np.sum(of_noise**2))
        exact = np.hypot(self.std * alpha, self.last)
        return np.hypot(constant - self.mean * alpha, std - exact)

    def strong_error(self, process, num_steps, reference):
        """Root mean square distance from a run of many steps that meets the same noise."""
        constant, of_start, of_noise = self.factors(process, num_steps)
        parts = len(reference[2]) // num_steps
        of_noise = np.repeat(of_noise, parts) / np.sqrt(parts)
        differences = [constant - reference[0], of_start - reference[1], *(of_noise - reference[2])]
        return np.sqrt(np.sum(np.square(differences)))


@pytest.mark.parametrize("form", ["constant", "sigma", "decreasing"])
@pytest.mark.parametrize("method", ["euler", "heun"])
def test_half_the_step_halves_the_error(form, method):
    problem = Gaussian()
    process = Process(LinearPath(), "velocity", Diffusion(form), method, "none")
    weak = [problem.weak_error(process, steps) for steps in (64, 128)]
    assert np.log2(weak[0] / weak[1]) == pytest.approx(1, abs=0.25)
    assert weak[1] < 0.015
    reference = problem.factors(process, 1024)
    strong = [problem.strong_error(process, steps, reference) for steps in (32, 64)]
    assert np.log2(strong[0] / strong[1]) == pytest.approx(1, abs=0.2)


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
