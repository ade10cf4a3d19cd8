"""Times at which a sampler stands, from noise down to clean latents."""

import numpy as np

from rae_jax.diffusion.time_sampling import LAST_TRAINED
from rae_jax.typing import Float

FINAL_STEPS = ("grid", "zero")


def time_grid(
    num_steps: int, shift: float, *, final_step: str = "grid"
) -> Float[np.ndarray, " points"]:
    """`num_steps` times, evenly spaced from 1 to 0.001, then shifted; float32.

    Args:
        num_steps: Grid points, so there is one step fewer, as upstream counts.
        shift: The time shift that training used.
        final_step: "grid" ends at shift(0.001), as the published results do; "zero" replaces the
            last point by 0, so that the last step ends on clean latents.

    Raises:
        ValueError: Fewer than two points, or an unknown `final_step`.
    """
    if num_steps < 2:
        raise ValueError(f"num_steps counts grid points and must be at least 2, got {num_steps}")
    if final_step not in FINAL_STEPS:
        raise ValueError(f"final_step must be one of {FINAL_STEPS}, got {final_step!r}")
    t = (1 - np.linspace(0, LAST_TRAINED, num_steps, dtype=np.float32)).astype(np.float32)
    t = (shift * t / (1 + (shift - 1) * t)).astype(np.float32)
    if final_step == "zero":
        t[-1] = 0
    return t
