import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rae_jax.training import ema
from rae_jax.training.optimizers import adamw, learning_rate_schedule
from rae_jax.training.state import TrainState
from tests.comparison import load_case

CASE = load_case("optimizer_schedule")


def _schedule(name, training):
    """The schedule whose numbers the original announced for a configuration."""
    message = CASE.statement["records"]["messages"][name]
    warmup, end = map(int, re.findall(r"steps=(\d+)", message))
    scheduler = training.get("scheduler", training)
    base = scheduler["base_lr"]
    schedule = learning_rate_schedule(
        scheduler.get("type", "linear"),
        base=base,
        final=scheduler.get("final_lr", base),
        warmup_steps=warmup,
        end_step=end,
        warmup_from_zero=scheduler.get("warmup_from_zero", False),
    )
    return base, schedule


@pytest.mark.parametrize("entry", CASE.config["schedules"], ids=lambda entry: entry["output"])
def test_schedules_match_the_original(entry):
    name = entry["output"]
    base, schedule = _schedule(name, entry["training"])
    steps = jnp.array(entry["steps"], jnp.int32)
    rates = np.asarray(jax.jit(jax.vmap(schedule))(steps), np.float64)
    CASE.assert_close(f"multiplier.{name}", rates / base)
    if "walk" in entry:
        walked = [schedule(step) for step in range(entry["walk"])]
        CASE.assert_close(f"rate.{name}", np.asarray(walked, np.float64))


@pytest.mark.parametrize("entry", CASE.config["adamw"], ids=lambda entry: entry["output"])
def test_steps_match_the_original(entry):
    name, settings = entry["output"], entry["training"]["optimizer"]
    _, schedule = _schedule_of_adamw(entry)
    optimizer = adamw(
        schedule,
        beta_1=settings["betas"][0],
        beta_2=settings["betas"][1],
        weight_decay=settings["weight_decay"],
        clip_norm=entry["clip_grad"],
    )
    params = {"w": jnp.asarray(CASE.input("ema_start"))}
    state = TrainState.create(params, {}, optimizer, jax.random.key(0))
    step = jax.jit(lambda state, g: state.updated(g, optimizer, entry["ema_decay"]))
    values, averages, norms = [], [], []
    for gradient in CASE.input("gradients"):
        norms.append(optax.tree.norm({"w": jnp.asarray(gradient)}))
        state = step(state, {"w": jnp.asarray(gradient)})
        values.append(state.params["w"])
        averages.append(state.ema["w"])
    CASE.assert_close(f"adamw.{name}", values)
    CASE.assert_close(f"adamw_ema.{name}", averages)
    CASE.assert_close(f"adamw_norms.{name}", norms)
    assert int(state.step) == len(values)


def _schedule_of_adamw(entry):
    scheduler = entry["training"]["scheduler"]
    per_epoch = entry["steps_per_epoch"]
    return scheduler["base_lr"], learning_rate_schedule(
        scheduler["type"],
        base=scheduler["base_lr"],
        final=scheduler["final_lr"],
        warmup_steps=scheduler["warmup_epochs"] * per_epoch,
        end_step=scheduler["decay_end_epoch"] * per_epoch,
        warmup_from_zero=scheduler["warmup_from_zero"],
    )


@pytest.mark.parametrize("decay", CASE.config["ema_decays"])
def test_moving_average_matches_the_original(decay):
    average = {"w": jnp.asarray(CASE.input("ema_start"))}
    rows = []
    for values in CASE.input("ema_updates"):
        average = ema.update(average, {"w": jnp.asarray(values)}, decay)
        rows.append(average["w"])
    expected = CASE.output(f"ema.{decay}")[:, 0]
    tolerance = CASE.statement["outputs"][f"ema.{decay}"]["tolerance"]
    np.testing.assert_allclose(rows, expected, rtol=0, atol=tolerance)


def test_moving_average_stays_float32():
    average = ema.update({"w": jnp.ones(3)}, {"w": jnp.full(3, 2, jnp.bfloat16)}, 0.999)
    assert average["w"].dtype == jnp.float32
    np.testing.assert_allclose(average["w"], 1.001, rtol=1e-6)


def test_constant_schedule_with_ramp():
    schedule = learning_rate_schedule("constant", base=2e-4, warmup_steps=4, warmup_from_zero=True)
    rates = [float(schedule(step)) for step in (0, 1, 3, 4, 10**6)]
    np.testing.assert_allclose(rates, [5e-5, 1e-4, 2e-4, 2e-4, 2e-4], rtol=1e-6)


@pytest.mark.parametrize(
    ("decay", "numbers", "message"),
    [
        ("exponential", {"base": 1.0}, "decay must be one of"),
        ("linear", {"base": 1.0}, "final >= 0 and end_step"),
        ("cosine", {"base": 1.0, "final": 0.1, "warmup_steps": 5, "end_step": 3}, "end_step=3"),
        ("constant", {"base": 1.0, "final": 0.1}, 'not "constant"'),
        ("constant", {"base": 0.0}, "positive base"),
    ],
)
def test_contradictory_schedules_are_refused(decay, numbers, message):
    with pytest.raises(ValueError, match=message):
        learning_rate_schedule(decay, **numbers)
