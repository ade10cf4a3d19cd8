import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rae_jax.sharding import processes
from rae_jax.sharding.mesh import batch_sharding, make_mesh, replicated
from rae_jax.sharding.processes import (
    agreed,
    from_main,
    global_batch,
    is_main_process,
    own_rows,
    place,
    wait_for_all,
)
from tests.processes import free_address


def test_batch_is_cut_over_data_and_fsdp():
    host = {
        "images": np.arange(8 * 12, dtype=np.uint8).reshape(8, 2, 2, 3),
        "labels": np.arange(8, dtype=np.int32),
        "index": np.arange(8, dtype=np.int64),
    }
    batch = global_batch(make_mesh(data=2, fsdp=2, tensor=2), host)
    assert batch["images"].sharding.shard_shape(batch["images"].shape) == (2, 2, 2, 3)
    for name in host:
        np.testing.assert_array_equal(batch[name], host[name])


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"multiple of data x fsdp = 8, got 6 in 'labels'"):
        global_batch(make_mesh(), {"labels": np.zeros(6, np.int32)})


def test_one_process_is_the_main_one_and_agrees_with_itself():
    assert is_main_process()
    assert agreed(True)
    assert not agreed(False)
    wait_for_all("test")
    assert from_main(np.arange(3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)])
def test_every_row_is_written_once(sizes):
    rows = np.arange(8 * 3, dtype=np.uint8).reshape(8, 3)
    mesh = make_mesh(*sizes)
    for sharding in (batch_sharding(mesh), replicated(mesh)):
        numbers, own = own_rows(place(rows, sharding))
        assert numbers.tolist() == list(range(8))
        np.testing.assert_array_equal(own, rows)


def test_trees_are_placed_leaf_by_leaf():
    mesh = make_mesh(data=2, fsdp=4)
    tree = {"a": np.ones((8, 2), np.float32), "b": np.zeros(3, np.int32)}
    shardings = {"a": NamedSharding(mesh, PartitionSpec("fsdp")), "b": replicated(mesh)}
    placed = place(tree, shardings)
    assert {name: leaf.sharding for name, leaf in placed.items()} == shardings
    jax.tree.map(np.testing.assert_array_equal, placed, tree)


@pytest.fixture
def joined(monkeypatch):
    """Arguments of the calls that would join processes, which none does here."""
    calls = []
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)

    def note(*arguments, **named):
        calls.append((*arguments, named))

    monkeypatch.setattr(jax.distributed, "initialize", note)
    monkeypatch.setattr(processes, "call_roll", lambda *arguments: None)
    monkeypatch.setattr(processes, "explain_abort", lambda message: None)
    return calls


PATIENCE = {"initialization_timeout": 300, "heartbeat_timeout_seconds": 180}


def test_a_single_process_stays_alone(joined):
    with processes.joined(settings={"workdir": "runs"}):
        assert joined == []


def test_processes_are_joined_as_they_are_told(joined):
    processes.start("node0:1234", 2, 0)
    alone = {"cluster_detection_method": "deactivate"}
    assert joined == [("node0:1234", 2, 0, {**alone, **PATIENCE})]


def test_tasks_of_a_slurm_step_find_each_other(joined, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    processes.start()
    assert joined == []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_LOCALID", "0")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1(x2)")
    processes.start(heartbeat_timeout=10.0, start_timeout=20.0)
    patience = {"initialization_timeout": 20, "heartbeat_timeout_seconds": 30}
    assert joined == [({"local_device_ids": [], **patience},)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("node0:1234", None, 0), "must be given together; missing: num_processes$"),
        ((None, 2, None), "together; missing: coordinator_address, process_id$"),
        (("node0", 2, 0), "coordinator_address must be 'host:port', .* got 'node0'"),
        (("node0:1234", 2, 2), "at least 0 and below num_processes = 2, got 2"),
        (("node0:1234", 0, 0), "at least 0 and below num_processes = 0, got 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(joined, arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.start(*arguments)
    assert joined == []


JOIN = """
import jax
from rae_jax.sharding import processes
with processes.joined(start_timeout=120.0, settings={"seed": "0"}):
    print(jax.process_index(), jax.process_count(), processes.agreed(True))
"""


def slurm(rank):
    return {
        **{"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"},
        **{"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"},
        **{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
    }


def open_mpi(rank):
    return {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
        **{"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
        **{"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_LOCAL_RANK": str(rank)},
    }


@pytest.mark.multiprocess
@pytest.mark.parametrize("variables", [slurm, open_mpi])
def test_processes_join_by_what_their_launcher_has_set(variables):
    port = free_address().rpartition(":")[2]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN],
            env={**os.environ, **variables(rank), "JAX_COORDINATOR_PORT": port},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=200)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0]
    for rank in range(2):
        assert f"{rank} 2 True" in said[rank]
