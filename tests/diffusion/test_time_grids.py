import numpy as np
import pytest

from rae_jax.diffusion.paths import PATHS
from rae_jax.diffusion.time_grids import sampling_interval, time_grid
from tests.comparison import load_case


def test_the_published_grid_stops_above_zero():
    grid = time_grid(50, shift=6.928203230275509)
    assert grid.shape == (50,) and grid.dtype == np.float32
    assert grid[0] == 1 and grid[-1] == pytest.approx(0.00688728503882885, rel=2e-4)


def test_zero_takes_the_place_of_the_last_point():
    grid = time_grid(50, 2.0)
    finished = time_grid(50, 2.0, final_step="zero")
    np.testing.assert_array_equal(finished[:-1], grid[:-1])
    assert finished[-1] == 0


@pytest.mark.parametrize("name", PATHS)
def test_sampling_intervals_match_upstream(name):
    for record in load_case(f"transport_{name}").statement["records"]["check_interval"]:
        if record["use"] == "ode" and not record["error"]:
            ends = sampling_interval(PATHS[name], record["prediction"], 2e-3)
            # Upstream counts both ends from the noise side.
            np.testing.assert_allclose(1 - np.array(ends), record["t0_t1"], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 1}, "num_steps must be at least 2, got 1"),
        ({"shift": 0.0}, "time shift must be positive"),
        ({"interval": (0.2, 0.8)}, "must decrease within"),
        ({"final_step": "mean"}, "final_step must be one of"),
    ],
)
def test_impossible_grids_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        time_grid(**{"num_steps": 5, **changes})


def test_margins_must_leave_something():
    with pytest.raises(ValueError, match=r"margin must be in \(0, 0.5\)"):
        sampling_interval(PATHS["linear"], "noise", 0.0)
