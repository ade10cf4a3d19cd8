import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.diffusion.flow import Flow
from rae_jax.diffusion.guidance import Guidance
from rae_jax.diffusion.paths import LinearPath
from rae_jax.diffusion.sampler import Sampler, sample_noise
from rae_jax.diffusion.sde import Process
from rae_jax.diffusion.time_grids import time_grid
from tests.diffusion.denoisers import Counted, Known

SHAPE, KEY, INDEX, LABELS = (2, 3, 4), jax.random.key(0), jnp.arange(2), jnp.array([3, 1])
GRID = tuple(map(float, time_grid(9, 1.7)))
ALL = tuple(range(8))
GUIDANCE = [
    Guidance(),
    Guidance("classifier_free", 2.0),
    Guidance("classifier_free", 2.0, (0.3, 0.8)),
    Guidance("autoguidance", 1.5, (0.0, 0.7)),
]


def sample(steps, guidance=Guidance(), **extra):  # noqa: B008
    sampler = Sampler(SHAPE, GRID, Flow(), guidance, steps)
    if guidance.method == "autoguidance":
        extra["guide"] = Counted(width=3, gain=0.5)
    return jax.jit(lambda: sampler(Counted(), KEY, INDEX, LABELS, **extra))()


@pytest.mark.parametrize("guidance", GUIDANCE)
def test_a_new_state_in_every_step_is_ordinary_sampling(guidance):
    np.testing.assert_allclose(sample(ALL, guidance), sample((), guidance), rtol=0, atol=1e-5)


def by_hand(steps, low=0.0, high=1.0, scale=1.0):
    """Euler with what `Counted` keeps in its state: the times of the last computed ones."""
    model, latents = Counted(), sample_noise(KEY, INDEX, SHAPE)
    null = jnp.full_like(LABELS, model.null_label)

    def value(latents, labels, time):
        return model._value(latents, model._state(jnp.full(2, time, jnp.float32), labels))

    state_time, reference_time = None, None
    for step, (t, next_t) in enumerate(zip(GRID[:-1], GRID[1:], strict=True)):
        if step in steps:
            state_time, reference_time = t, None
        velocity = value(latents, LABELS, state_time)
        if low <= t <= high and scale != 1:
            reference_time = t if reference_time is None else reference_time
            other = value(latents, null, reference_time)
            velocity = other + scale * (velocity - other)
        latents = latents + (next_t - t) * velocity
    return latents


@pytest.mark.parametrize("steps", [(0,), (0, 4), (0, 1, 5, 7)])
def test_steps_use_the_newest_state(steps):
    np.testing.assert_allclose(sample(steps), by_hand(steps), rtol=0, atol=1e-5)


def test_guidance_computes_its_state_when_it_begins():
    expected = by_hand((0, 4), 0.3, 0.8, 2.0)
    found = sample((0, 4), Guidance("classifier_free", 2.0, (0.3, 0.8)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_scales_may_differ_within_a_batch():
    scales, guidance = jnp.array([1.0, 2.0]), Guidance("classifier_free", 7.0)
    mixed = sample((0, 4), guidance, guidance_scale=scales)
    np.testing.assert_allclose(mixed[:1], sample((0, 4))[:1], rtol=0, atol=1e-6)
    expected = by_hand((0, 4), scale=2.0)
    np.testing.assert_allclose(mixed[1:], expected[1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [(1, 2), (0, 3, 2), (0, 8), (0, 2, 2)])
def test_schedules_must_rise_from_zero_within_the_steps(steps):
    with pytest.raises(ValueError, match="backbone_steps must rise from 0 to at most 7"):
        Sampler(SHAPE, GRID, Flow(), Guidance(), steps)


@pytest.mark.parametrize("integrator", [Flow(method="heun"), Process(LinearPath())])
def test_only_euler_shares(integrator):
    with pytest.raises(ValueError, match="only Euler's method without chance shares"):
        Sampler(SHAPE, GRID, integrator, Guidance(), (0,))


def test_denoisers_without_a_backbone_have_nothing_to_share():
    sampler = Sampler(SHAPE, GRID, Flow(), Guidance(), (0,))
    with pytest.raises(ValueError, match="cannot share a backbone state of Known"):
        sampler(Known(None), KEY, INDEX, LABELS)
