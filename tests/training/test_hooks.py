import jax
import jax.numpy as jnp
import pytest

from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.configuration.errors import ConfigError
from rae_jax.configuration.parts import LoopConfig
from rae_jax.training import hooks, loop
from tests.training import toy


class _Memory:
    def __init__(self):
        self.rows = []

    def scalars(self, step, values):
        self.rows.append((step, dict(values)))

    def images(self, step, name, image):
        raise AssertionError("no pictures here")

    def close(self):
        pass


def _drive(hook, values, start=0):
    """Calls a hook as the loop would, with the losses `values`."""
    for step, value in enumerate(values, start=start + 1):
        hook(step, {}, {"loss": jnp.float32(value), "gradient_norm": jnp.float32(1)})


def test_metrics_are_logged_at_their_interval_with_the_speed():
    writer = _Memory()
    loop.run(
        toy.train_step,
        toy.create(jax.random.key(0)),
        toy.batches(0),
        start_step=0,
        num_steps=7,
        hooks=[hooks.LogMetrics(3, [writer], images_per_step=8)],
    )
    assert [step for step, _ in writer.rows] == [3, 6]
    for _, values in writer.rows:
        assert set(values) == {"loss", "steps_per_second", "images_per_second"}
        assert all(isinstance(value, float) for value in values.values())
        assert values["images_per_second"] == pytest.approx(8 * values["steps_per_second"])


def test_the_compiling_first_step_is_no_part_of_the_speed():
    writer = _Memory()
    _drive(hooks.LogMetrics(1, [writer], images_per_step=8), [1, 1])
    assert "steps_per_second" not in writer.rows[0][1]
    assert "steps_per_second" in writer.rows[1][1]


def test_nothing_is_fetched_between_intervals():
    with jax.transfer_guard_device_to_host("disallow"):
        _drive(hooks.LogMetrics(10, [_Memory()], images_per_step=8), [1] * 5)
        _drive(hooks.StopOnNonFinite(10), [1] * 5)
        _drive(hooks.ShowProgress(0, 20, every=10), [1] * 5)


def test_a_non_finite_step_is_found_and_named():
    hook = hooks.StopOnNonFinite(4)
    _drive(hook, [1, 2, 3, 4], start=100)
    with pytest.raises(FloatingPointError, match="at step 106, .* steps 105 to 108") as error:
        _drive(hook, [1, float("nan"), 3, float("inf")], start=104)
    assert "{'loss': inf}" in str(error.value)


def test_the_last_steps_are_checked_as_well():
    hook = hooks.StopOnNonFinite(100)
    _drive(hook, [1, float("inf"), 3])
    with pytest.raises(FloatingPointError, match="step 2, .*1 to 3.*all are finite again"):
        hook.finish(3, {})


def test_a_broken_state_is_not_saved(tmp_path):
    def step(state, batch):
        return {"w": state["w"] + 1}, {"loss": jnp.where(state["w"][0] > 3, jnp.nan, 1.0)}

    with CheckpointManager(tmp_path) as manager:
        with pytest.raises(FloatingPointError, match="step 5"):
            loop.run(
                step,
                {"w": jnp.zeros(3)},
                [{}] * 20,
                start_step=0,
                num_steps=20,
                hooks=[hooks.StopOnNonFinite(2), hooks.SaveCheckpoint(2, manager, {})],
            )
        assert manager.steps() == [2, 4]


def test_progress_shows_the_loss_and_reaches_the_end(capsys):
    hook = hooks.ShowProgress(2, 5, every=2)
    _drive(hook, [0.25, 0.125, 0.0625], start=2)
    hook.finish(5, {})
    text = capsys.readouterr().err
    assert "5/5" in text
    assert "loss=0.25" in text  # Of the step before the one shown.


def test_every_calls_its_function():
    seen = []
    hook = hooks.Every(3, lambda step, state: seen.append(step))
    _drive(hook, [0] * 7)
    hook.finish(7, {})
    assert seen == [3, 6]


def test_a_profile_is_recorded(tmp_path):
    hook = hooks.Profile(tmp_path, first_step=2, num_steps=2)
    _drive(hook, [0] * 6)
    hook.finish(6, {})
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_intervals_must_be_positive():
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        hooks.StopOnNonFinite(0)


def test_checkpoints_to_keep_are_saved_out_of_turn(tmp_path):
    with CheckpointManager(tmp_path, keep_last=1, keep_every=6) as manager:
        loop.run(
            toy.train_step,
            toy.create(jax.random.key(0)),
            toy.batches(0),
            start_step=0,
            num_steps=13,
            hooks=[hooks.SaveCheckpoint(4, manager, {})],
        )
        assert manager.steps() == [6, 12, 13]


def test_a_check_at_several_intervals_fetches_at_no_other_step():
    hook = hooks.StopOnNonFinite((4, 6))
    with jax.transfer_guard_device_to_host("disallow"):
        _drive(hook, [1, 1, float("nan")])
    with pytest.raises(FloatingPointError, match="at step 3, .* steps 1 to 4"):
        _drive(hook, [1], start=3)


def test_what_to_keep_is_a_duration_or_nothing():
    assert LoopConfig().keep_every == ""
    LoopConfig(keep_every="50 epochs")
    with pytest.raises(ConfigError, match="keep_every must be above 0, or '' for none"):
        LoopConfig(keep_every="0 epochs")
