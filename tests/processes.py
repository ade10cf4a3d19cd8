"""Several processes of one job on this machine, started as a user starts them."""

import socket
import subprocess
from collections.abc import Sequence

from tests.project import Project, completed, succeeded


def free_address() -> str:
    """Where process 0 can listen: the kernel gives a port that nobody has used lately."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def together(num_processes: int, address: str | None = None) -> list[tuple[str, ...]]:
    """For each process of one job, the flags that join it; none for a single one."""
    if num_processes == 1:
        return [()]
    common = (
        f"--coordinator_address={address or free_address()}",
        f"--num_processes={num_processes}",
    )
    return [(*common, f"--process_id={rank}") for rank in range(num_processes)]


def start(
    project: Project, arguments: Sequence[str], num_processes: int = 1, num_devices: int = 1
) -> list[subprocess.Popen]:
    """Starts so many processes of so many devices each that do one job.

    Args:
        project: Where.
        arguments: Of every process, after `python`.
        num_processes: How many.
        num_devices: Simulated devices of each.
    """
    flags = project.environment["XLA_FLAGS"]
    several = f"{flags} --xla_force_host_platform_device_count={num_devices}"
    environment = {"XLA_FLAGS": several}
    return [
        project.start(*arguments, *joining, environment=environment)
        for joining in together(num_processes)
    ]


def finish(processes: Sequence[subprocess.Popen]) -> list[subprocess.CompletedProcess]:
    """The processes, if all of them end well."""
    return [succeeded(process) for process in ended(processes)]


def ended(processes: Sequence[subprocess.Popen]) -> list[subprocess.CompletedProcess]:
    """The processes when all of them have ended; none is left behind, whatever happens."""
    try:
        return [completed(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def said(process: subprocess.CompletedProcess) -> list[str]:
    """Lines of standard output."""
    # The library that connects processes without accelerators tells of it.
    told = ("[Gloo]", "peer ranks")  # Two lines at once may come in pieces.
    return [x for x in process.stdout.splitlines() if not any(part in x for part in told)]
