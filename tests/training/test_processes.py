"""The loop and its checkpoints over two processes of two devices each, and back in one."""

import signal
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.training import loop
from tests.checkpointing.states import assert_same_bits
from tests.processes import free_address
from tests.training import toy

pytestmark = pytest.mark.multiprocess

SCRIPT = textwrap.dedent(
    """
    import sys
    import jax

    rank, address, folder, num_steps = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, num_processes=2, process_id=rank)

    from rae_jax.checkpointing.experiment import open_workdir
    from rae_jax.checkpointing.manager import CheckpointManager
    from rae_jax.monitoring.writers import make_writers
    from rae_jax.sharding.mesh import make_mesh
    from rae_jax.sharding.rules import tree_shardings
    from rae_jax.training import hooks, loop
    from tests.training import toy

    def tell(step, state):
        print("step", step, flush=True)

    def own_part(batches):
        for batch in batches:
            yield {name: array[4 * rank : 4 * rank + 4] for name, array in batch.items()}

    workdir = open_workdir(folder, "toy", {"seed": 0})
    mesh = make_mesh(data=1, fsdp=4)
    shapes = jax.eval_shape(toy.create, jax.random.key(0))
    shardings = tree_shardings(shapes, mesh, min_size=1)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes, shardings,
    )
    with CheckpointManager(workdir / "checkpoints") as manager:
        restored = manager.restore_latest(abstract)
        if restored is None:
            state, start = jax.jit(toy.create, out_shardings=shardings)(jax.random.key(0)), 0
        else:
            state, start = restored.state, restored.step
        writers = make_writers(["jsonl"], workdir, resume_step=start)
        try:
            loop.run(
                toy.train_step, state, own_part(toy.batches(start)), start_step=start,
                num_steps=num_steps, mesh=mesh,
                hooks=[
                    hooks.StopOnNonFinite(5), hooks.LogMetrics(5, writers, images_per_step=8),
                    hooks.SaveCheckpoint(5, manager, {}), hooks.Every(10, tell),
                ],
            )
        except loop.Interrupted:
            sys.exit(loop.Interrupted.exit_status)
    """
)


def _start(folder, num_steps):
    address = free_address()
    return [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), address, str(folder), str(num_steps)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def _finish(processes):
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "\n".join(errors)


def _restored(folder):
    with CheckpointManager(folder / "checkpoints") as manager:
        return manager.restore_latest(jax.eval_shape(toy.create, jax.random.key(0)))


def test_two_processes_save_what_one_restores(tmp_path):
    codes, errors = _finish(_start(tmp_path / "whole", 10))
    assert codes == [0, 0], errors
    restored = _restored(tmp_path / "whole")
    assert restored.step == 10
    alone = loop.run(
        toy.train_step,
        toy.create(jax.random.key(0)),
        toy.batches(0),
        start_step=0,
        num_steps=10,
        hooks=[],
    )
    kernel, expected = restored.state.params["up"]["kernel"], alone.params["up"]["kernel"]
    # Sums over devices are rounded in another order; measured 2e-7.
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=2e-6)
    assert len((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()) == 2

    # A damaged newest checkpoint is passed over by both processes alike, and the run repeated.
    whole = _restored(tmp_path / "whole").state
    (tmp_path / "whole" / "checkpoints" / "10" / "metadata" / "metadata").write_text("{}")
    codes, errors = _finish(_start(tmp_path / "whole", 10))
    assert codes == [0, 0], errors
    again = _restored(tmp_path / "whole")
    assert again.step == 10
    assert_same_bits(again.state, whole)
    assert (tmp_path / "whole" / "checkpoints" / "damaged-10").exists()


def test_sigterm_to_one_process_ends_both_at_the_same_step(tmp_path):
    processes = _start(tmp_path, 10**9)
    for line in processes[0].stdout:
        if line.startswith("step"):
            processes[0].send_signal(signal.SIGTERM)
            break
    codes, errors = _finish(processes)
    assert codes == [75, 75], errors
    assert _restored(tmp_path).step >= 10
