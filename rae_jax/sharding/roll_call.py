"""Who has come to a job of several processes, before JAX joins them and can no longer tell."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

from absl import logging

_REMIND_EVERY = 30.0
_RETRY_EVERY = 0.25
_ONE_ANSWER = 10.0
_LONGEST_LINE = 65_536


class Absent(Exception):
    """Some of the processes did not come in time; the message says which."""


def call_roll(address: str, num_processes: int, process_id: int, timeout: float) -> None:
    """Returns in every process once all of them are there.

    Process 0 listens at the address until everybody has come, says so, and leaves the port to
    JAX. Where JAX joins the processes by itself, one that is missing ends the others without a
    word about which it is.

    Args:
        address: "host:port" of process 0.
        num_processes: How many there are.
        process_id: Number of this one, from 0.
        timeout: Seconds to wait.

    Raises:
        Absent: Somebody has not come by then.
        ValueError: The processes were told different things, or the port is taken.
    """
    deadline = time.monotonic() + timeout
    if process_id == 0:
        _call(address, num_processes, timeout, deadline)
    else:
        _answer(address, num_processes, process_id, timeout, deadline)


def _call(address: str, num_processes: int, timeout: float, deadline: float) -> None:
    there: dict[int, socket.socket] = {}
    with _listening(address) as server, contextlib.ExitStack() as stack:
        error: Exception | None = None
        remind = time.monotonic() + _REMIND_EVERY
        while len(there) < num_processes - 1 and error is None:
            missing = _named(set(range(1, num_processes)) - there.keys())
            now = time.monotonic()
            if now >= deadline:
                error = Absent(
                    f"{missing} of {num_processes} did not come to {address} within "
                    f"{timeout:.0f} s; see why in its log, and start all of them again"
                )
                break
            if now >= remind:
                logging.warning("waiting at %s for %s", address, missing)
                remind = now + _REMIND_EVERY
            server.settimeout(min(deadline, remind) - now)
            with contextlib.suppress(TimeoutError):
                connection = stack.enter_context(server.accept()[0])
                error = _enter(connection, there, num_processes)
        verdict = {"error": error and str(error), "absent": isinstance(error, Absent)}
        for connection in there.values():
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(verdict).encode() + b"\n")
                # The one who came closes first, or the port would not be free for a while.
                connection.recv(1)
    if error is not None:
        raise error


def _enter(
    connection: socket.socket, there: dict[int, socket.socket], num_processes: int
) -> ValueError | None:
    """Notes who has come; an error if that cannot be."""
    connection.settimeout(_ONE_ANSWER)
    try:
        said = json.loads(_line(connection))
        number, count, host = said["process_id"], said["num_processes"], said["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # A stranger, such as a scan of ports.
    present = number in there
    there[-1 - number if present else number] = connection
    if count != num_processes:
        return ValueError(
            f"num_processes must be the same everywhere, got {num_processes} in process 0 and "
            f"{count} in process {number} on {host}"
        )
    if present or number == 0:
        return ValueError(
            f"every process needs a process_id of its own, but {number} came twice, the second "
            f"time from {host}"
        )
    return None


def _answer(
    address: str, num_processes: int, process_id: int, timeout: float, deadline: float
) -> None:
    host, _, port = address.rpartition(":")
    said = {
        "process_id": process_id,
        "num_processes": num_processes,
        "host": socket.gethostname(),
    }
    problem: object = ""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), _ONE_ANSWER) as connection:
                connection.sendall(json.dumps(said).encode() + b"\n")
                # Process 0 has a deadline too, and shall be the one to say what is wrong.
                connection.settimeout(max(deadline - time.monotonic(), 0) + 2 * _ONE_ANSWER)
                verdict = json.loads(_line(connection))
            break
        except (OSError, ValueError) as error:
            problem = error
            time.sleep(_RETRY_EVERY)
    else:
        raise Absent(
            f"process 0 of {num_processes} did not answer at {address} within {timeout:.0f} s "
            f"({problem or 'no answer'}); start it, see that the address is its own and the port "
            "open, and start all of them again"
        )
    if verdict["error"]:
        raise (Absent if verdict["absent"] else ValueError)(verdict["error"])


@contextlib.contextmanager
def _listening(address: str) -> Iterator[socket.socket]:
    port = int(address.rpartition(":")[2])
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=512)
    except OSError as error:
        raise ValueError(
            f"process 0 cannot listen on the port of coordinator_address = {address!r} "
            f"({error.strerror}); choose one that is free"
        ) from error
    with server:
        yield server


def _line(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\n"):
        part = connection.recv(4096)
        if not part or len(received) > _LONGEST_LINE:
            raise ConnectionError("the other side closed the connection")
        received += part
    return received


def _named(numbers: set[int]) -> str:
    listed = ", ".join(map(str, sorted(numbers)))
    return f"process {listed}" if len(numbers) == 1 else f"processes {listed}"
