"""Processes of one job tell each other that they live, and leave together when one does not.

JAX has heartbeats of its own, but what they find out ends the process inside C++: without the name
of the culprit, and with the exit status of a crash. Those of this module are quicker, and say it.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from typing import Any

from jax._src import distributed

from rae_jax.configuration.errors import LOST_PROCESS, exit_status

_SIGNS, _FAILURES = "rae_jax/signs", "rae_jax/failures"
_LEFT = "left"
_LONGEST_INTERVAL = 1.0
_GRACE = 5.0
_LEAVE_AFTER = 30.0

_OF_XLA = re.compile(
    "(UNKNOWN|INTERNAL|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|FAILED_PRECONDITION):"
)

_ADVICE = "start all processes again; what they did goes on from what was saved last"


@dataclasses.dataclass(frozen=True)
class Failure:
    """What ended a job: the number of the process, and a sentence without a full stop."""

    process: int
    host: str
    text: str
    silent: bool

    def __str__(self) -> str:
        who = f"process {self.process} ({self.host})" if self.host else f"process {self.process}"
        if self.silent:
            return f"{who} {self.text}; {_ADVICE}"
        return f"{who} ended with an error: {self.text}\nput that right, and {_ADVICE}"


class Watch:
    """Gives signs of life of this process, and ends it when another one is gone.

    Two threads run: one talks to the others by way of process 0, which looks after everybody's
    signs; the other sees whether process 0 still answers the first.
    """

    def __init__(self, process_id: int, num_processes: int, timeout: float):
        """Begins.

        Args:
            process_id: Number of this process.
            num_processes: How many there are.
            timeout: Seconds without a sign after which a process counts as gone.
        """
        self._process, self._others = process_id, set(range(num_processes)) - {process_id}
        self._interval = min(_LONGEST_INTERVAL, timeout / 10)
        self._timeout = timeout
        self._client: Any = distributed.global_state.client
        self._stopped, self._ending = threading.Event(), threading.Event()
        self._failure: Failure | None = None
        self._exchanges = 0
        self._last_signs: dict[int, str] = {}
        self._silent_for: dict[int, int] = dict.fromkeys(self._others, 0)
        self._client.key_value_set(f"rae_jax/host/{process_id}", socket.gethostname())
        for work in (self._exchange_all_the_time, self._guard):
            threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        """Ends the watch over this process, which has done its work."""
        self._stopped.set()
        self._say(_LEFT)

    def cause_of(self, error: BaseException) -> Failure | None:
        """What went wrong elsewhere before `error` did here; None if it began here.

        Errors of a collective are mostly those of another process, of which nothing may be known
        yet; then this waits until it would be.
        """
        self._ending.set()
        text = str(error)
        if _OF_XLA.search(text):  # Errors of a save tell what it met after words of their own.
            deadline = time.monotonic() + self._timeout + 3 * self._interval
            while self._failure is None and time.monotonic() < deadline:
                time.sleep(self._interval)
        else:
            self._look()
        found = self._failure
        # What all processes find wrong is the error of each.
        if found is None or found.process == self._process or found.text == text:
            return None
        return found

    def tell(self, error: BaseException) -> None:
        """Lets the others know what ends this process, which is to call `leave` at its end."""
        self._ending.set()
        self._note(Failure(self._process, socket.gethostname(), str(error) or repr(error), False))
        self.leave_soon(exit_status(error))

    def leave(self, status: int) -> None:
        """Ends the process at once; process 0, by way of which all hear, as the last one."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._say(_LEFT)
        deadline = time.monotonic() + 2 * _GRACE
        while self._process == 0 and time.monotonic() < deadline:
            signs = self._signs()
            if all(signs.get(number) == _LEFT for number in self._others - self._silent()):
                break
            time.sleep(self._interval / 2)
        os._exit(status)

    def _silent(self) -> set[int]:
        failure = self._failure
        return {failure.process} if failure is not None and failure.silent else set()

    def leave_soon(self, status: int) -> None:
        """Sees to it that the process ends, whatever threads and handlers wait for the others."""

        def leave() -> None:
            time.sleep(_LEAVE_AFTER)
            os._exit(status)

        threading.Thread(target=leave, daemon=True).start()

    def _exchange_all_the_time(self) -> None:
        count = 0
        while not self._stopped.is_set():
            count += 1
            self._say(str(count))
            self._look()
            if self._process == 0:
                self._look_after_others()
            if self._failure is not None:
                self._leave(self._failure)
            self._exchanges += 1
            self._stopped.wait(self._interval)

    def _guard(self) -> None:
        # Rounds are counted, not seconds, of which many pass when this process itself is stopped.
        seen, rounds = 0, 0
        while not self._stopped.wait(self._interval):
            rounds = rounds + 1 if self._exchanges == seen else 0
            seen = self._exchanges
            if rounds * self._interval > self._timeout:
                self._leave(self._silence(0, ""))

    def _look_after_others(self) -> None:
        signs = self._signs()
        for number in self._others:
            sign = signs.get(number, "")
            same = sign == self._last_signs.get(number, "") and sign != _LEFT
            self._silent_for[number] = self._silent_for[number] + 1 if same else 0
            self._last_signs[number] = sign
            if self._silent_for[number] * self._interval > self._timeout:
                with contextlib.suppress(RuntimeError):
                    host = self._client.key_value_try_get(f"rae_jax/host/{number}")
                    self._note(self._silence(number, host))

    def _silence(self, number: int, host: str) -> Failure:
        text = (
            f"has given no sign of life for {self._timeout:.0f} s: it was killed or stopped, or "
            "its machine is lost"
        )
        return Failure(number, host, text, silent=True)

    def _say(self, sign: str) -> None:
        # Without process 0 there is nobody to talk to, which `_guard` notices.
        with contextlib.suppress(RuntimeError):
            self._client.key_value_set(f"{_SIGNS}/{self._process}", sign, allow_overwrite=True)

    def _signs(self) -> dict[int, str]:
        with contextlib.suppress(RuntimeError):
            found = self._client.key_value_dir_get(_SIGNS)
            return {int(name.rpartition("/")[2]): sign for name, sign in found}
        return {}

    def _note(self, failure: Failure) -> None:
        # The first one counts; another's is refused.
        with contextlib.suppress(RuntimeError):
            self._client.key_value_set(
                f"{_FAILURES}/first", json.dumps(dataclasses.asdict(failure))
            )
        self._look()

    def _look(self) -> None:
        if self._failure is None:
            with contextlib.suppress(RuntimeError):
                for _, value in self._client.key_value_dir_get(_FAILURES):
                    self._failure = Failure(**json.loads(value))

    def _leave(self, failure: Failure) -> None:
        """Ends the process, unless it is about to end by itself."""
        if failure.process == self._process and not failure.silent:
            return
        self._failure = failure
        if not failure.silent:
            # Time to find the same error here too, which then is told as this process's own.
            self._ending.wait(_GRACE)
        if self._ending.is_set() or self._stopped.is_set():
            return
        if failure.process != 0:  # Who is not there to hear it.
            self._say(_LEFT)
        _end(f"\nerror: {failure}\n", LOST_PROCESS)


def _end(message: str, status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(2, message.encode())
    os._exit(status)


_handlers: list[Any] = []


def explain_abort(message: str) -> None:
    """Has this process say `message` and leave as after a lost process where JAX aborts it.

    JAX ends a process from a thread of its own, and at once, when process 0 is gone or does not
    come. Python's signal handlers are never reached then, one of C is.
    """
    line = f"\nerror: {message}; {_ADVICE}\n".encode()

    def handle(number: int) -> None:
        os.write(2, line)
        os._exit(LOST_PROCESS)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    _handlers.append(handler)  # C keeps no reference.
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    library.signal.restype = ctypes.c_void_p
    library.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
