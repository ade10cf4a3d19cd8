"""What started this process as one of several: a TPU slice, Slurm or Open MPI."""

import dataclasses
import importlib.util
import os
import pathlib
import re


@dataclasses.dataclass(frozen=True)
class Environment:
    """Where the processes of a job find each other without being told how.

    Attributes:
        name: For messages.
        local_device_ids: GPUs of this process among those it can see; an empty list means all,
            None what JAX chooses.
    """

    name: str
    local_device_ids: list[int] | None


def found_environment() -> Environment | None:
    """The environment that this process is in; None if it is on its own."""
    if _is_tpu_host():
        return Environment("the TPU slice", None)
    if _is_slurm_task():
        on_node = _own_count(os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
        return Environment("Slurm", _own_gpus(on_node, int(os.environ["SLURM_LOCALID"])))
    if _is_open_mpi():
        on_node = int(os.environ["OMPI_COMM_WORLD_LOCAL_SIZE"])
        local = int(os.environ["OMPI_COMM_WORLD_LOCAL_RANK"])
        return Environment("Open MPI", _own_gpus(on_node, local))
    return None


def _is_tpu_host() -> bool:
    if "tpu" not in os.environ.get("JAX_PLATFORMS", "tpu"):
        return False
    chips = (pathlib.Path("/dev").glob(pattern) for pattern in ("accel*", "vfio/[0-9]*"))
    return importlib.util.find_spec("libtpu") is not None and any(map(any, chips))


def _is_slurm_task() -> bool:
    # A script that runs in an allocation, but not under srun, is no task of a step.
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _is_open_mpi() -> bool:
    # JAX knows the versions before 5 by this variable, which holds the address of `mpirun`.
    several = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    return several and "OMPI_MCA_orte_hnp_uri" in os.environ


def _own_count(tasks_per_node: str) -> int | None:
    """Tasks on this node by Slurm's list, such as "2(x3),1": 2 on three nodes, then 1."""
    counts: list[int] = []
    for count, repeats in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks_per_node):
        counts += [int(count)] * int(repeats or 1)
    node = int(os.environ.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else None


def _own_gpus(tasks_on_node: int | None, local_id: int) -> list[int] | None:
    """GPUs of a task among those it sees.

    JAX would give task i of a node GPU i alone: seven of eight would idle under one task per
    node, and where a task sees nothing but its own GPU, there is no number i.
    """
    if tasks_on_node == 1:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ.get("ROCR_VISIBLE_DEVICES")
    if tasks_on_node is None or not visible:
        return None
    count = len(visible.split(","))
    if count == 1:
        return []
    if count % tasks_on_node:
        raise ValueError(
            f"the GPUs of a node must divide evenly over its tasks, got {count} for "
            f"{tasks_on_node}; start one task per GPU, or one per node"
        )
    share = count // tasks_on_node
    return list(range(local_id * share, (local_id + 1) * share))
