import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.diffusion import time_sampling
from rae_jax.diffusion.paths import PATHS
from rae_jax.diffusion.time_sampling import TimeDistribution, logit_normal_quantile, shift_time
from tests.comparison import load_case

CASE = load_case("transport_time")
DRAWS = jnp.asarray(CASE.input("draws"))


@pytest.mark.parametrize("spec", CASE.config["quantiles"], ids=lambda spec: spec["output"])
def test_quantiles_match_upstream(spec):
    low, high = float(spec["low"]), float(spec["high"])
    times = logit_normal_quantile(DRAWS, spec["mu"], spec["sigma"], low, high)
    CASE.assert_close(spec["output"], times)


@pytest.mark.parametrize(
    "spec", CASE.config["warps"] + CASE.config["training_times"], ids=lambda spec: spec["output"]
)
def test_training_times_match_upstream(spec):
    kind = {"uniform": "uniform", "logit-normal_0_1": "logit_normal"}[spec["time_dist_type"]]
    ends = time_sampling.training_interval(PATHS["linear"], "velocity")
    distribution = TimeDistribution(kind, spec["time_dist_shift"])
    CASE.assert_close(spec["output"], distribution.quantile(DRAWS, ends))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((16, 16, 768), 6.928203230275509), ((32, 32, 768), 13.856406460551018), ((32, 32, 4), 1)],
)
def test_the_shift_follows_from_the_latents(shape, expected):
    assert time_sampling.time_shift(shape) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("shift", [0.3, 1.0, 7.0])
def test_shifting_keeps_the_ends_and_the_order(shift):
    times = shift_time(jnp.linspace(0, 1, 11), shift)
    assert times[0] == 0 and times[-1] == 1
    assert np.all(np.diff(times) > 0)
    np.testing.assert_allclose(shift_time(times, 1 / shift), jnp.linspace(0, 1, 11), atol=1e-6)
    assert (times[5] > 0.5) == (shift > 1)


def test_truncated_times_stay_inside_even_at_the_last_draw():
    draws = jnp.array([0.0, 1 - 2**-24])
    times = logit_normal_quantile(draws, 0.0, 1.0, 0.2, 0.7)
    assert times[0] >= 0.2 and times[1] <= 0.7
    assert np.all(np.isfinite(logit_normal_quantile(draws, 0.0, 1.0, 0.0, 1.0)))


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="time shift must be positive, got 0"):
        shift_time(DRAWS, 0.0)
    with pytest.raises(ValueError, match="0 <= low < high <= 1"):
        logit_normal_quantile(DRAWS, 0.0, 1.0, 0.7, 0.2)
    with pytest.raises(ValueError, match="std of the logit must be positive"):
        logit_normal_quantile(DRAWS, 0.0, 0.0, 0.2, 0.7)
    with pytest.raises(ValueError, match='"uniform" or "logit_normal", got \'normal\''):
        TimeDistribution("normal")
    with pytest.raises(ValueError, match=r"margin must be in \[0, 0.5\)"):
        time_sampling.training_interval(PATHS["linear"], "noise", 0.5)
