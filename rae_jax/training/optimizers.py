"""Learning-rate schedules and AdamW, as the published recipes use them."""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from rae_jax.configuration.schema import OptimizerConfig, ScheduleConfig
from rae_jax.typing import Array, Float, PyTree

Schedule = Callable[[Any], Float[Array, ""]]
"""Optimiser steps taken so far, 0 in the first one -> learning rate of the next."""

Decay = Literal["constant", "linear", "cosine"]


def learning_rate_schedule(
    decay: str,
    *,
    base: float,
    final: float | None = None,
    warmup_steps: int = 0,
    end_step: int | None = None,
    warmup_from_zero: bool = False,
) -> Schedule:
    """Warm-up, then a decay from `base` to `final`, which holds from `end_step` on.

    Args:
        decay: "constant", or the shape of the decay between `warmup_steps` and `end_step`:
            "linear" or "cosine" (half a period).
        base: Learning rate at the end of the warm-up.
        final: Learning rate at the end; not for "constant".
        warmup_steps: Length of the warm-up.
        end_step: Step from which on `final` holds; not for "constant".
        warmup_from_zero: True ramps up as `(step + 1) / warmup_steps`. False holds `base` during
            the warm-up, which then only puts off the decay.

    Returns:
        A pure function of the step, for optax.

    Raises:
        ValueError: Unknown decay, or numbers that contradict each other.
    """
    if decay not in get_args(Decay):
        raise ValueError(f"decay must be one of {get_args(Decay)}, got {decay!r}")
    if base <= 0 or warmup_steps < 0:
        raise ValueError(
            "a schedule needs a positive base and no negative warm-up, got "
            f"base={base}, warmup_steps={warmup_steps}"
        )
    if decay == "constant":
        if final is not None or end_step is not None:
            raise ValueError('final and end_step are for "linear" and "cosine", not "constant"')
    elif final is None or end_step is None or final < 0 or end_step < warmup_steps:
        raise ValueError(
            f"{decay} decay needs final >= 0 and end_step >= warmup_steps = {warmup_steps}, got "
            f"final={final}, end_step={end_step}"
        )

    def factor(step: Any) -> Any:
        if final is None or end_step is None:
            return jnp.float32(1)
        # Differences of integers: a float32 step count would lose digits late in a long run.
        passed = jnp.asarray(step - warmup_steps, jnp.float32)
        progress = jnp.clip(passed / max(end_step - warmup_steps, 1), 0, 1)
        progress = jnp.where(step >= end_step, 1.0, progress)
        left = 1 - progress if decay == "linear" else (1 + jnp.cos(math.pi * progress)) / 2
        ratio = final / base
        return ratio + (1 - ratio) * left

    def schedule(step: Any) -> Any:
        rate = factor(step)
        if warmup_steps:
            ramp = jnp.asarray(step + 1, jnp.float32) / warmup_steps
            rate = jnp.where(step < warmup_steps, ramp if warmup_from_zero else 1.0, rate)
        return base * rate

    return schedule


def adamw(
    learning_rate: Schedule | float,
    *,
    beta_1: float,
    beta_2: float,
    weight_decay: float,
    epsilon: float = 1e-8,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """AdamW with decoupled weight decay on every parameter (Loshchilov & Hutter 2019).

    Args:
        learning_rate: A number or a schedule; a schedule counts this optimiser's own updates.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        weight_decay: Factor of the parameters, times the learning rate, taken off in each step.
        epsilon: Added to the root of the second moment.
        clip_norm: Largest norm of all gradients together; larger ones are scaled down to it
            before they enter the moments. None does not clip.
    """
    optimizer = optax.adamw(
        learning_rate, b1=beta_1, b2=beta_2, eps=epsilon, weight_decay=weight_decay
    )
    if clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    return _with_promotion(optimizer)


def _with_promotion(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Lets optax mix integer counts with floats even where that is otherwise forbidden."""

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def configured_optimizer(
    settings: OptimizerConfig,
    schedule: ScheduleConfig,
    to_steps: Callable[[str], int],
    *,
    first_step: int = 0,
) -> tuple[optax.GradientTransformation, Schedule]:
    """AdamW with the configured learning-rate schedule, and that schedule for the log.

    Args:
        settings: Of AdamW.
        schedule: Of the learning rate.
        to_steps: Durations to steps.
        first_step: Step of the schedule in the optimiser's first update.

    Returns:
        The optimiser, and the learning rate by the number of its updates so far.
    """
    constant = schedule.kind == "constant"
    by_step = learning_rate_schedule(
        schedule.kind,
        base=settings.learning_rate,
        final=None if constant else schedule.final_learning_rate,
        warmup_steps=to_steps(schedule.warmup),
        end_step=None if constant else to_steps(schedule.end),
        warmup_from_zero=schedule.warmup_from_zero,
    )

    def rate(updates: Any) -> Any:
        return by_step(updates + first_step)

    optimizer = adamw(
        rate,
        beta_1=settings.beta1,
        beta_2=settings.beta2,
        weight_decay=settings.weight_decay,
        epsilon=settings.epsilon,
        clip_norm=settings.clip_norm or None,
    )
    return optimizer, rate
