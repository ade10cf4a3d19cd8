"""The sides of a comparison: each prepares a part, and then runs it whenever it is asked to.

A side is a Python module with `VERSION`, what it computes with, and `PARTS`, which maps the name of
a part to a function of `Settings` that prepares it; `begin()`, if there, comes before. Each lives
in a process of its own, where its memory can be told and no other library's threads are:

python -m rae_jax.benchmarking.sides MODULE_OR_FILE

reads requests and writes answers, a line of JSON each.
"""

import ctypes
import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rae_jax.benchmarking import filling
from rae_jax.benchmarking.presets import Settings
from rae_jax.benchmarking.report import Row

_PROC = pathlib.Path("/proc/self")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A part that is ready to run.

    Attributes:
        run: Does it once, waits for the end, and returns the answer on its device.
        answer: The answer as an array that all sides have alike, images and latents NHWC; None
            where chance is in it.
        facts: What else there is to tell, by name.
        products: Seconds that its matrix products alone take; None for sides that do not tell.
        costs: Runs once under a profiler that writes to a folder, and tells the dearest
            operations; None for sides that do not tell.
        peak: Bytes of the accelerator's memory in use at the most; None on processors.
    """

    run: Callable[[], Any]
    answer: Callable[[Any], np.ndarray] | None = None
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    products: Callable[[], float] | None = None
    costs: Callable[[str], list[Row]] | None = None
    peak: Callable[[], int] | None = None


@runtime_checkable
class Side(Protocol):
    """What a comparison asks of its sides."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """`version`, and what `Prepared.facts` has."""
        ...

    def first(self) -> list[float] | None:
        """Runs once, to warm up; an excerpt of the answer."""
        ...

    def run(self) -> float:
        """Runs twice; seconds of the second run.

        A process that waits for its turn gives the memory that it does not hold back to the
        machine, and to get it again takes up to a third of a training step. Steps that follow one
        another, as in training, pay for that once.
        """
        ...

    def products(self) -> float | None:
        """Seconds of the matrix products alone."""
        ...

    def memory(self) -> float:
        """Bytes that the part had in use at the most, besides the libraries."""
        ...

    def costs(self, folder: str) -> list[Row]:
        """The dearest operations of a run, whose profile is written to the folder."""
        ...


class Here:
    """A side in this process."""

    def __init__(self, module: ModuleType, settings: Settings):
        """Prepares the part.

        Raises:
            ValueError: The side lacks the part or what it needs.
        """
        if settings.part not in module.PARTS:
            raise ValueError(f"{module.__name__} has no part {settings.part}")
        self._before = _resident()
        self._prepared: Prepared = module.PARTS[settings.part](settings)
        self.facts = {"version": module.VERSION, **self._prepared.facts}
        _forget_peak()

    def first(self) -> list[float] | None:
        """See `Side`."""
        answer, take = self._prepared.run(), self._prepared.answer
        return None if take is None else filling.excerpt(take(answer)).tolist()

    def run(self) -> float:
        """See `Side`."""
        self._prepared.run()
        start = time.perf_counter()
        self._prepared.run()
        return time.perf_counter() - start

    def products(self) -> float | None:
        """See `Side`."""
        return None if self._prepared.products is None else self._prepared.products()

    def memory(self) -> float:
        """See `Side`."""
        if self._prepared.peak is not None:
            return float(self._prepared.peak())
        return float(_peak() - self._before)

    def costs(self, folder: str) -> list[Row]:
        """See `Side`."""
        return [] if self._prepared.costs is None else self._prepared.costs(folder)


class Elsewhere:
    """A side in a process of its own."""

    def __init__(self, name: str, settings: Settings):
        """Prepares the part there.

        Raises:
            ValueError: The side lacks the part or what it needs, or its process ended.
        """
        self._name = name
        # What the other side may need is left to it; and a program that is compiled anew each time
        # takes as long as it says.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(settings.threads),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
        }
        self._process = _start(name, environment)
        try:
            self.facts = self._ask("prepare", **dataclasses.asdict(settings))
        except BaseException:
            self.close()
            raise

    def _ask(self, request: str, **arguments: Any) -> Any:
        return _ask(self._name, self._process, request, **arguments)

    def first(self) -> list[float] | None:
        """See `Side`."""
        return self._ask("first")

    def run(self) -> float:
        """See `Side`."""
        return self._ask("run")

    def products(self) -> float | None:
        """See `Side`."""
        return self._ask("products")

    def memory(self) -> float:
        """See `Side`."""
        return self._ask("memory")

    def costs(self, folder: str) -> list[Row]:
        """See `Side`."""
        return self._ask("costs", folder=folder)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


def offered(names: Sequence[str]) -> dict[str, frozenset[str]]:
    """The parts that each side has: those of its `PARTS`, and "data" if it has `batches`.

    Raises:
        ValueError: A side cannot be loaded.
    """
    # Told by other processes, at once, since libraries are slow to load and take threads.
    processes = {name: _start(name, os.environ) for name in names}
    try:
        return {name: frozenset(_ask(name, processes[name], "parts")) for name in names}
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def _start(name: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    path = os.pathsep.join(folder for folder in sys.path if folder)
    return subprocess.Popen(
        [sys.executable, "-m", "rae_jax.benchmarking.sides", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**environment, "PYTHONPATH": path},
        text=True,
    )


def _ask(name: str, process: subprocess.Popen[str], request: str, **arguments: Any) -> Any:
    try:
        print(json.dumps({"request": request, **arguments}), file=process.stdin, flush=True)
        line = process.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]
    except BrokenPipeError:
        line = ""
    if not line:
        raise ValueError(f"the process of {name} ended with status {process.wait()}")
    answer = json.loads(line)
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["answer"]


def load(name: str) -> ModuleType:
    """The module of that name, or in that file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be imported.
    """
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        if not pathlib.Path(name).is_file():
            raise FileNotFoundError(f"no file {name}")
        spec = importlib.util.spec_from_file_location(f"side_{pathlib.Path(name).stem}", name)
        if spec is None or spec.loader is None:
            raise ValueError(f"{name} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise ValueError(f"{name} cannot be loaded: {error}") from error
    return module


def _resident() -> int:
    """Bytes of memory in use."""
    if not _PROC.exists():
        return 0
    # What has been freed goes back first: it is no use.
    ctypes.CDLL(None).malloc_trim(0)
    return int((_PROC / "statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    """Bytes of memory in use at the most, so far or since `_forget_peak`."""
    status = _PROC / "status"
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _forget_peak() -> None:
    """Lets the peak begin with what is in use now: loading is not what is measured."""
    _resident()
    if (_PROC / "clear_refs").exists():
        (_PROC / "clear_refs").write_text("5")


def _serve(name: str) -> None:
    # What libraries print goes to the errors.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side: Here | None = None
    for line in sys.stdin:
        arguments = json.loads(line)
        request = arguments.pop("request")
        try:
            if request == "prepare":
                settings = Settings(**arguments)
                _restrict(settings.threads)
                module = load(name)
                getattr(module, "begin", lambda: None)()
                side = Here(module, settings)
                answer: Any = side.facts
            elif request == "parts":
                module = load(name)
                answer = [*getattr(module, "PARTS", ()), *["data"] * hasattr(module, "batches")]
            else:
                answer = getattr(side, request)(**arguments)
            reply = {"answer": answer}
        except Exception as error:
            # Whatever goes wrong in a library is told where all sides are told of.
            told = " ".join(str(error).split())
            known = isinstance(error, ValueError | OSError)
            reply = {"error": told if known else f"{name}: {type(error).__name__}: {told}"}
        print(json.dumps(reply), file=channel, flush=True)


def _restrict(threads: int) -> None:
    """Lets this process, whose libraries are not loaded yet, use so many processors."""
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, processors[:threads])


if __name__ == "__main__":
    _serve(sys.argv[1])
