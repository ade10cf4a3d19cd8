"""Several processes: their start, who writes, and how arrays of each become global and back."""

import atexit
import contextlib
import importlib.metadata
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from jax._src import distributed
from jax.experimental import multihost_utils
from jax.sharding import Mesh, Sharding

from rae_jax.configuration.errors import LOST_PROCESS, Stopped, exit_status
from rae_jax.sharding.launchers import found_environment
from rae_jax.sharding.mesh import BATCH_AXES, batch_sharding
from rae_jax.sharding.roll_call import Absent, call_roll
from rae_jax.sharding.watch import Watch, explain_abort
from rae_jax.typing import Array, Int, PyTree, Shaped

HEARTBEAT_TIMEOUT, START_TIMEOUT = 60.0, 300.0


class Abandoned(Stopped):
    """Another process of the job is gone, and so this one cannot go on."""

    exit_status = LOST_PROCESS


@contextlib.contextmanager
def joined(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_timeout: float = HEARTBEAT_TIMEOUT,
    start_timeout: float = START_TIMEOUT,
    settings: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Joins the processes of one job, as `start` does, and has them end together.

    If one of them meets an error, is killed, or gives no sign of life, the others say which and
    why, and leave with status 69.

    Args:
        coordinator_address: See `start`.
        num_processes: See `start`.
        process_id: See `start`.
        heartbeat_timeout: Seconds without a sign of life after which a process counts as gone.
        start_timeout: See `start`.
        settings: Name -> text, which must be the same in all processes.

    Raises:
        Abandoned: Another process is gone, or did not come.
        ValueError: See `start`; or the processes have different settings.
    """
    start(
        coordinator_address,
        num_processes,
        process_id,
        heartbeat_timeout=heartbeat_timeout,
        start_timeout=start_timeout,
    )
    if not jax.distributed.is_initialized():
        yield
        return
    state = distributed.global_state  # Devices are not asked for yet: that waits for all.
    watch = Watch(state.process_id, state.num_processes, heartbeat_timeout)
    try:
        _require_same(settings or {}, start_timeout)
        yield
    except Stopped as stop:  # All of them, after the same step.
        watch.leave_soon(stop.exit_status)
        watch.stop()
        raise
    except BaseException as error:
        cause = watch.cause_of(error)
        ending: BaseException = error if cause is None else Abandoned(f"error: {cause}")
        watch.tell(ending)
        # Registered last and so called first: JAX would wait for the others to end well.
        atexit.register(watch.leave, exit_status(ending))
        if cause is None:
            raise
        raise ending from error
    watch.stop()


def _require_same(settings: Mapping[str, str], timeout: float) -> None:
    """Raises ValueError, in the processes that are to blame, unless all have the same settings."""
    own = {**settings, "version of jax": jax.__version__, "version of rae_jax": _version()}
    client: Any = distributed.global_state.client
    limit = round(timeout * 1000)
    if is_main_process():
        client.key_value_set("rae_jax/settings/0", json.dumps(own))
        # Before they agree, nothing is written.
        for number in range(1, jax.process_count()):
            client.blocking_key_value_get(f"rae_jax/settings/{number}", limit)
        return
    first = json.loads(client.blocking_key_value_get("rae_jax/settings/0", limit))
    absent = "(absent)"
    different = [
        f"  {name}: {first.get(name, absent)} in process 0, {own.get(name, absent)} in this one"
        for name in sorted(own.keys() | first.keys())
        if own.get(name, absent) != first.get(name, absent)
    ]
    if different:
        raise ValueError(
            f"process {jax.process_index()} was started with other settings than process 0:\n"
            + "\n".join(different)
            + "\nstart all processes with the same command, but for --process_id"
        )
    client.key_value_set(f"rae_jax/settings/{jax.process_index()}", "the same")


def _version() -> str:
    return importlib.metadata.version("rae_jax")


def start(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_timeout: float = HEARTBEAT_TIMEOUT,
    start_timeout: float = START_TIMEOUT,
) -> None:
    """Makes the processes of one job one for JAX; to be called before anything else of it.

    Without arguments the hosts of a TPU slice, the tasks of a Slurm step and the processes of
    Open MPI's `mpirun` find each other by themselves, and everything else stays a single process.
    Processes but the first log warnings only.

    Args:
        coordinator_address: "host:port" of the first process, with a port that is free there.
        num_processes: How many there are.
        process_id: Number of this one, from 0.
        heartbeat_timeout: Seconds; JAX ends everybody when a process is not heard of for thrice
            as long.
        start_timeout: Seconds to wait for the others.

    Raises:
        Abandoned: Some process did not come in time.
        ValueError: Some arguments are given and others are not, or they do not fit.
    """
    arguments = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    lacking = [name for name, value in arguments.items() if value is None]
    patience: dict[str, Any] = {
        "initialization_timeout": math.ceil(start_timeout),
        # Later than `Watch`, which says more.
        "heartbeat_timeout_seconds": math.ceil(3 * heartbeat_timeout),
    }
    if len(lacking) == len(arguments):
        environment = found_environment()
        if environment is None:
            return
        explain_abort(
            f"the processes of this job, which {environment.name} started, did not find each "
            f"other within {start_timeout:.0f} s"
        )
        jax.distributed.initialize(local_device_ids=environment.local_device_ids, **patience)
    else:
        if lacking:
            raise ValueError(
                "coordinator_address, num_processes and process_id must be given together; "
                f"missing: {', '.join(lacking)}"
            )
        address, count, number = str(coordinator_address), int(num_processes or 0), process_id or 0
        _require_fitting(address, count, number)
        try:
            call_roll(address, count, number, start_timeout)
        except Absent as absent:
            raise Abandoned(f"error: {absent}") from absent
        explain_abort(f"the {count} processes could not be joined by way of {address}")
        jax.distributed.initialize(
            address, count, number, cluster_detection_method="deactivate", **patience
        )
    explain_abort("the process 0 of this job, or the way to it, is gone")
    if not is_main_process():
        logging.set_verbosity(logging.WARNING)


def _require_fitting(coordinator_address: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator_address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"coordinator_address must be 'host:port', such as 'node0:1234', got "
            f"{coordinator_address!r}"
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"process_id must be at least 0 and below num_processes = {num_processes}, got "
            f"{process_id}"
        )


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


def from_main(value: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """The main process's `value`, in every process; type and shape must be the same in all."""
    if jax.process_count() == 1:
        return value
    return np.asarray(multihost_utils.broadcast_one_to_all(value)).astype(value.dtype)


def from_all(value: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "processes ..."]:
    """Every process's `value`, bit for bit; type and shape must be the same in all."""
    if jax.process_count() == 1:
        return value[None]
    # As bytes, because device arrays would make float32 of float64.
    data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
    gathered = np.ascontiguousarray(multihost_utils.process_allgather(data))
    return gathered.view(value.dtype).reshape(jax.process_count(), *value.shape)


def ordered_rows(
    numbers: Int[np.ndarray, " n"], rows: Shaped[np.ndarray, "n ..."]
) -> Shaped[np.ndarray, "N ..."]:
    """The rows of all processes in the order of their numbers.

    Args:
        numbers: Of the rows that this process has; each is had by one process alone.
        rows: Those rows.
    """
    counts = from_all(np.asarray(len(rows)))
    fill = int(counts.max()) - len(rows)
    # Processes may have different numbers of rows, but exchange equally many.
    padded = np.concatenate([rows, np.zeros((fill, *rows.shape[1:]), rows.dtype)])
    marks = np.concatenate([numbers, np.full(fill, -1, numbers.dtype)])
    all_marks = from_all(marks).reshape(-1)
    all_rows = from_all(padded).reshape(-1, *rows.shape[1:])
    order = np.argsort(all_marks, kind="stable")[int((all_marks < 0).sum()) :]
    return all_rows[order]


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


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Global arrays of what every process holds whole.

    Args:
        tree: Arrays of this process or of NumPy, equal in all of them.
        shardings: A sharding for each of them, or one for all.
    """
    if isinstance(shardings, Sharding):
        return jax.tree.map(lambda leaf: _placed(leaf, shardings), tree)
    return jax.tree.map(_placed, tree, shardings)


def _placed(leaf: Shaped[Array, "..."] | Shaped[np.ndarray, "..."], sharding: Sharding) -> Array:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    # `device_put` would have all processes compare what they hold, byte by byte.
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def fetched(array: Shaped[Array, "..."]) -> Shaped[np.ndarray, "..."]:
    """A global array as NumPy's, in every process; all of them must ask for it."""
    if jax.process_count() == 1:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def own_rows(array: Shaped[Array, "B ..."]) -> tuple[Int[np.ndarray, " n"], np.ndarray]:
    """The rows of a global array that this process is to write, and their numbers.

    Every row is given to one process, whatever the mesh and the order of its devices. Axes but
    the first must be whole.
    """
    numbers, rows = [np.zeros(0, np.int64)], [np.zeros((0, *array.shape[1:]), array.dtype)]
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            numbers.append(np.arange(array.shape[0])[shard.index[0]])
            rows.append(np.asarray(shard.data))
    order = np.argsort(np.concatenate(numbers))
    return np.concatenate(numbers)[order], np.concatenate(rows)[order]
