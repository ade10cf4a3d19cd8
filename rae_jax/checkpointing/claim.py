"""One job per folder: a lock that ends with the job, however it ends."""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator

from absl import logging

from rae_jax.files import AnyPath, absolute
from rae_jax.sharding.processes import agreed, is_main_process

LOCK_FILE = "lock"
"""Name of the locked file in the folder of a run; it names the host and process that hold it."""

_NO_LOCKS = "The file system of %s has no locks: see to it that no second job runs there"
_IMPOSSIBLE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def claimed(workdir: str | AnyPath) -> Iterator[None]:
    """Keeps other jobs out of the folder, which is made if need be, until the block ends.

    The first process of a job holds the lock for all of them. It is the operating system's
    (`flock`): it goes with the process even if that is killed, asks no clock, and holds between
    hosts where the file system says so (NFS does; Lustre if it is mounted with `flock`). Where
    there are no locks, as in a bucket, a warning tells so.

    Raises:
        ValueError: Another job holds the folder.
        OSError: The folder cannot be made or written.
    """
    folder = absolute(workdir)
    with contextlib.ExitStack() as stack:
        problem = None
        if is_main_process():
            try:
                stack.enter_context(_locked(folder))
            except (ValueError, OSError) as error:
                problem = error
        # All end if the first process may not go on.
        if not agreed(problem is None):
            raise problem or ValueError(f"{folder} cannot be used; the first process says why")
        yield


def require_free(workdir: str | AnyPath) -> None:
    """What `claimed` asks for, for before anything large is loaded; makes and keeps nothing.

    Raises:
        ValueError: Another job holds the folder.
        OSError: The folder cannot be made or written.
    """
    folder = absolute(workdir)
    if not isinstance(folder, pathlib.Path):
        return
    _require_writable(folder)
    if is_main_process() and (folder / LOCK_FILE).exists():
        with _locked(folder):
            pass


@contextlib.contextmanager
def _locked(folder: AnyPath) -> Iterator[None]:
    if not isinstance(folder, pathlib.Path):
        logging.warning(_NO_LOCKS, folder)
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Opened without emptying it: until the lock is ours, what it says is somebody else's.
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "another process"
            raise ValueError(
                f"{folder} is in use by {holder}; wait for it to end or end it, or use another "
                "--workdir"
            ) from None
        except OSError as error:
            if error.errno not in _IMPOSSIBLE:
                raise
            logging.warning(_NO_LOCKS, folder)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _require_writable(folder: pathlib.Path) -> None:
    """Raises for a folder, or what a run would write in it again, that may not be written."""
    there = folder
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is no folder; use another --workdir")
    for path in (there, *(there.iterdir() if there == folder else ())):
        if not os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0)):
            raise PermissionError(
                f"{path} may not be written; mount it for writing or change its permissions, or "
                "use another --workdir"
            )
