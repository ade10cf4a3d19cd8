import os
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.sharding.mesh import make_mesh
from rae_jax.sharding.rules import tree_shardings
from rae_jax.training import loop
from rae_jax.training.hooks import SaveCheckpoint
from tests.checkpointing.states import assert_same_bits
from tests.training import toy

KEY = jax.random.key(0)


class _Recorder:
    def __init__(self, at=None, action=None):
        self.calls = []
        self.finished = []
        self.at, self.action = at, action

    def __call__(self, step, state, metrics):
        self.calls.append((step, metrics["loss"]))
        if step == self.at:
            self.action()

    def finish(self, step, state):
        self.finished.append(step)


def _run(num_steps, start_step=0, state=None, hooks=(), mesh=None):
    return loop.run(
        toy.train_step,
        toy.create(KEY) if state is None else state,
        toy.batches(start_step),
        start_step=start_step,
        num_steps=num_steps,
        hooks=hooks,
        mesh=mesh,
    )


def test_hooks_see_every_step_in_order():
    recorder = _Recorder()
    state = _run(5, hooks=[recorder])
    assert [step for step, _ in recorder.calls] == [1, 2, 3, 4, 5]
    assert recorder.finished == [5]
    assert int(state.step) == 5
    state, batch = toy.create(KEY), next(toy.batches(0))
    assert float(recorder.calls[0][1]) == float(jax.jit(toy.train_step)(state, batch)[1]["loss"])


def test_the_step_is_compiled_once():
    traces = []

    def step(state, batch):
        traces.append(1)
        return toy.train_step(state, batch)

    mesh = make_mesh(fsdp=4)
    shardings = tree_shardings(jax.eval_shape(toy.create, KEY), mesh, min_size=1)
    for where, state in (
        (None, toy.create(KEY)),
        (mesh, jax.jit(toy.create, out_shardings=shardings)(KEY)),
    ):
        traces.clear()
        loop.run(step, state, toy.batches(0), start_step=0, num_steps=4, hooks=[], mesh=where)
        assert len(traces) == 1


def test_frozen_arrays_are_arguments_and_survive():
    def step(state, frozen, batch):
        return {"sum": state["sum"] + frozen["w"] * batch["x"].mean()}, {"loss": state["sum"]}

    frozen = {"w": jnp.float32(2)}
    state = loop.run(
        step,
        {"sum": jnp.float32(0)},
        [{"x": np.ones(8, np.float32)}] * 3,
        frozen=frozen,
        start_step=0,
        num_steps=3,
        hooks=[],
    )
    assert float(state["sum"]) == 6
    assert float(frozen["w"]) == 2


@pytest.mark.parametrize("sizes", [{}, {"fsdp": 4, "tensor": 2, "data": 1}])
def test_a_mesh_changes_nothing_but_rounding(sizes):
    mesh = make_mesh(**sizes)
    shardings = tree_shardings(jax.eval_shape(toy.create, KEY), mesh, min_size=1)
    state = jax.jit(toy.create, out_shardings=shardings)(KEY)
    cut, alone = _run(5, state=state, mesh=mesh), _run(5)
    kernel = cut.params["up"]["kernel"]
    assert kernel.sharding == shardings.params["up"]["kernel"]
    # Sums over devices are rounded in another order; measured 2e-7.
    np.testing.assert_allclose(kernel, alone.params["up"]["kernel"], rtol=0, atol=2e-6)


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path):
    unbroken = _run(9)
    with CheckpointManager(tmp_path) as manager:
        _run(4, hooks=[SaveCheckpoint(3, manager, {})])
        assert manager.steps() == [3, 4]
    with CheckpointManager(tmp_path) as manager:
        restored = manager.restore_latest(jax.eval_shape(toy.create, KEY))
        assert restored.step == int(restored.state.step) == 4
        resumed = _run(9, restored.step, restored.state, hooks=[SaveCheckpoint(3, manager, {})])
        assert manager.steps() == [6, 9]
    assert_same_bits(resumed, unbroken)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step(tmp_path, number):
    before = signal.getsignal(number)
    recorder = _Recorder(3, lambda: os.kill(os.getpid(), number))
    with CheckpointManager(tmp_path) as manager:
        saving = SaveCheckpoint(100, manager, {"a": 1})
        with pytest.raises(loop.Interrupted, match="after step 3") as error:
            _run(50, hooks=[recorder, saving])
        assert manager.steps() == [3]
    assert error.value.step == 3
    assert recorder.finished == [3]
    assert signal.getsignal(number) is before


def test_a_second_signal_acts_at_once(request):
    # Whoever starts the tests may have had it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    class Impatient(_Recorder):
        def finish(self, step, state):
            signal.raise_signal(signal.SIGINT)
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        _run(50, hooks=[Impatient(2, lambda: os.kill(os.getpid(), signal.SIGINT))])


def test_too_few_batches_are_an_error():
    few = [batch for batch, _ in zip(toy.batches(0), range(3), strict=False)]
    with pytest.raises(ValueError, match="end after step 3, but the run has 5 steps"):
        loop.run(toy.train_step, toy.create(KEY), few, start_step=0, num_steps=5, hooks=[])


def test_a_finished_run_runs_no_further():
    recorder = _Recorder()
    _run(3, start_step=3, hooks=[recorder])
    assert recorder.calls == []
    assert recorder.finished == [3]


SCRIPT = textwrap.dedent(
    """
    import os, signal, sys
    import jax
    from rae_jax.checkpointing.manager import CheckpointManager
    from rae_jax.training import hooks, loop
    from tests.training import toy

    def tell(step, state):
        print("step", step, flush=True)

    with CheckpointManager(sys.argv[1]) as manager:
        try:
            loop.run(
                toy.train_step, toy.create(jax.random.key(0)), toy.batches(0), start_step=0,
                num_steps=10**9,
                hooks=[hooks.SaveCheckpoint(10**6, manager, {}), hooks.Every(50, tell)],
            )
        except loop.Interrupted:
            sys.exit(loop.Interrupted.exit_status)
    """
)


@pytest.mark.long
def test_sigterm_from_outside_saves_and_exits(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline().startswith("step 50")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75
    with CheckpointManager(tmp_path) as manager:
        restored = manager.restore_latest(jax.eval_shape(toy.create, KEY))
    assert restored.step >= 50
    assert_same_bits(restored.state, _run(restored.step))
