"""How often the networks are evaluated for one image."""

import dataclasses

import numpy as np

from rae_jax.diffusion.flow import ADAPTIVE
from rae_jax.diffusion.ode import METHODS
from rae_jax.diffusion.sampler import Sampler
from rae_jax.diffusion.sde import Process
from rae_jax.typing import Float


@dataclasses.dataclass(frozen=True)
class Evaluations:
    """Evaluations per image.

    Attributes:
        wanted: Of the denoiser with the image's label.
        reference: Of what guidance moves away from: the denoiser without a label, or the guide.
        wanted_backbone: Of the part of `wanted` that steps can share; else the same number.
        reference_backbone: The same of the reference.
    """

    wanted: int
    reference: int
    wanted_backbone: int
    reference_backbone: int


def evaluation_times(sampler: Sampler) -> Float[np.ndarray, " E"]:
    """Times at which predictions are asked for, in order.

    Raises:
        ValueError: They depend on the predictions, as those of "dopri5" do.
    """
    times, integrator = np.asarray(sampler.times, np.float32), sampler.integrator
    if isinstance(integrator, Process):
        return _stochastic(times, integrator)
    if integrator.method == ADAPTIVE:
        raise ValueError(f"how often {ADAPTIVE} evaluates depends on the denoiser")
    nodes = np.asarray(METHODS[integrator.method].nodes, np.float32)
    starts, ends = times[:-1, None], times[1:, None]
    return np.where(nodes == 1, ends, starts + nodes * (ends - starts)).ravel()


def _stochastic(times: Float[np.ndarray, " T"], process: Process) -> Float[np.ndarray, " E"]:
    steps = times[:-1]
    if process.method == "heun":
        steps = np.stack([times[:-1], times[1:]], axis=1).ravel()
        steps = steps if times[-1] else steps[:-1]
    return steps if process.last_step == "none" else np.append(steps, times[-1])


def evaluations(sampler: Sampler) -> Evaluations:
    """Counts those of the sampler's own scale; where scales differ, the largest batch member's.

    Raises:
        ValueError: See `evaluation_times`.
    """
    times = evaluation_times(sampler)
    low, high = sampler.guidance.interval
    acts = (low <= times) & (times <= high)
    acts &= sampler.guidance.method != "none" and sampler.guidance.scale != 1
    if not sampler.backbone_steps:
        return Evaluations(len(times), int(acts.sum()), len(times), int(acts.sum()))
    backbones, current = 0, False
    for step, guided in enumerate(acts):
        current &= step not in sampler.backbone_steps
        backbones += guided and not current
        current |= guided
    wanted = len(sampler.backbone_steps)
    return Evaluations(len(times), int(acts.sum()), wanted, int(backbones))
