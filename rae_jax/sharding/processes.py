"""Several processes: who writes, and how each one's part of a batch becomes one global array."""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from rae_jax.sharding.mesh import BATCH_AXES, batch_sharding
from rae_jax.typing import Array


def is_main_process() -> bool:
    """Whether this process writes the logs and files that exist once per run."""
    return jax.process_index() == 0


def require_one_process(job: str) -> None:
    """Raises ValueError where several processes would each do all of `job` and write its files."""
    if jax.process_count() > 1:
        raise ValueError(
            f"{job} runs in one process, got {jax.process_count()}; run it on one host"
        )


def wait_for_all(name: str) -> None:
    """Returns once every process has got here; `name` must be the same in all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed(value: bool) -> bool:
    """Whether `value` is true in every process."""
    if jax.process_count() == 1:
        return value
    return bool(np.all(multihost_utils.process_allgather(np.asarray(value))))


def global_batch(mesh: Mesh, host_batch: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Device arrays of the whole batch from the part of it that this process has loaded.

    Args:
        mesh: From `make_mesh`.
        host_batch: Name -> array whose first axis is this process's share of the batch.

    Raises:
        ValueError: The whole batch does not divide over the mesh's batch axes.
    """
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    for name, array in host_batch.items():
        size = array.shape[0] * jax.process_count()
        if size % parts:
            raise ValueError(
                f"the batch size must be a multiple of data x fsdp = {parts}, got {size} in "
                f"{name!r}; change the batch size or the mesh"
            )
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in host_batch.items()
    }
