"""What starts processes is told by variables and devices, as its manual describes them."""

import importlib.util
import pathlib

import pytest

from rae_jax.sharding.launchers import Environment, found_environment


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "SLURM_NODEID"):
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def test_hosts_of_a_tpu_slice_are_known_by_their_chips(monkeypatch):
    assert found_environment() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(
        pathlib.Path, "glob", lambda folder, pattern: iter([folder] if pattern == "accel*" else [])
    )
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert found_environment() is None
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    assert found_environment() == Environment("the TPU slice", None)


@pytest.mark.parametrize(
    ("tasks_per_node", "node", "local_id", "visible", "expected"),
    [
        ("1(x4)", 2, 0, "0,1,2,3,4,5,6,7", []),  # One task per node has all of its GPUs.
        ("8(x2)", 1, 3, "0,1,2,3,4,5,6,7", [3]),  # One GPU for each task.
        ("8(x2)", 1, 3, "0", []),  # The same, bound: a task sees its own one alone.
        ("2(x3),4", 3, 1, "0,1,2,3", [1]),
        ("2(x3),4", 0, 1, "0,1,2,3", [2, 3]),
        ("2", 0, 1, None, None),  # GPUs that nobody has counted; on a CPU, nothing to choose.
    ],
)
def test_tasks_of_slurm_share_the_gpus_of_their_node(
    monkeypatch, tasks_per_node, node, local_id, visible, expected
):
    set_all(monkeypatch, SLURM_STEP_NUM_TASKS=4, SLURM_STEP_TASKS_PER_NODE=tasks_per_node)
    set_all(monkeypatch, SLURM_NODEID=node, SLURM_LOCALID=local_id)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert found_environment() == Environment("Slurm", expected)


def test_gpus_that_do_not_divide_over_tasks_are_refused(monkeypatch):
    set_all(monkeypatch, SLURM_STEP_NUM_TASKS=3, SLURM_STEP_TASKS_PER_NODE=3, SLURM_LOCALID=0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    with pytest.raises(ValueError, match="evenly over its tasks, got 8 for 3"):
        found_environment()


def test_open_mpi_is_known_where_jax_knows_it(monkeypatch):
    set_all(monkeypatch, OMPI_COMM_WORLD_SIZE=2, OMPI_COMM_WORLD_LOCAL_SIZE=2)
    set_all(monkeypatch, OMPI_COMM_WORLD_LOCAL_RANK=1, CUDA_VISIBLE_DEVICES="0,1")
    assert found_environment() is None  # Version 5 leaves out the address of `mpirun`.
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://127.0.0.1:34911")
    assert found_environment() == Environment("Open MPI", [1])
