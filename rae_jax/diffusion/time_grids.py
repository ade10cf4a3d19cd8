"""Times at which samplers evaluate."""

from typing import Literal, get_args

import numpy as np

from rae_jax.diffusion.paths import Path, VPPath
from rae_jax.diffusion.predictions import require_prediction
from rae_jax.typing import Float

FinalStep = Literal["grid", "zero"]

_MARGIN = 1e-3


def sampling_interval(path: Path, prediction: str, margin: float = _MARGIN) -> tuple[float, float]:
    """First and last time of a sampling grid, before the shift.

    Velocity on the linear and GVP paths goes from 1 to 1e-3 whatever the margin; the VP path from
    1 to the margin, but for clean predictions; those and others keep the margin from both ends,
    where their velocity is infinite.

    Raises:
        ValueError: Unknown prediction, or a margin outside (0, 0.5).
    """
    require_prediction(prediction)
    if not 0 < margin < 0.5:
        raise ValueError(f"margin must be in (0, 0.5), got {margin}")
    if isinstance(path, VPPath) and prediction != "clean":
        return 1.0, margin
    if prediction == "velocity":
        return 1.0, _MARGIN
    return 1 - margin, margin


def time_grid(
    num_steps: int,
    shift: float = 1.0,
    *,
    interval: tuple[float, float] = (1.0, _MARGIN),
    final_step: str = "grid",
) -> Float[np.ndarray, " T"]:
    """Decreasing times, evenly spaced over the interval and then shifted; float32.

    Args:
        num_steps: Points of the grid, so an integrator takes one step fewer.
        shift: See `shift_time`.
        interval: First and last point before the shift.
        final_step: "grid" ends at the last point, as the published samplers do: a little above
            0, and further above it the larger the shift. "zero" puts t = 0 in its place: the same
            number of steps, and the last one ends on clean latents.

    Raises:
        ValueError: Fewer than two points, a shift that is not positive, an interval that does not
            decrease within [0, 1], an unknown final step.
    """
    first, last = interval
    if num_steps < 2:
        raise ValueError(f"num_steps must be at least 2, got {num_steps}")
    if shift <= 0:
        raise ValueError(f"time shift must be positive, got {shift}")
    if not 1 >= first > last >= 0:
        raise ValueError(f"the interval must decrease within [0, 1], got {interval}")
    if final_step not in get_args(FinalStep):
        raise ValueError(f"final_step must be one of {get_args(FinalStep)}, got {final_step!r}")
    t = np.linspace(first, last, num_steps)
    t = shift * t / (1 + (shift - 1) * t)
    if final_step == "zero":
        t[-1] = 0
    return t.astype(np.float32)
