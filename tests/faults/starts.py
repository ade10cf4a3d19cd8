"""Tiny runs in processes of their own that can be killed, started warm from a common parent."""

import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Callable

import jax

from rae_jax.configuration.errors import exit_status
from rae_jax.configuration.schema import Stage1Config, Stage2Config
from rae_jax.training import hooks, loop, stage1, stage2
from tests import pipeline
from tests.training.test_adversarial_runs import adversarial

STEPS = 12
LOOP = dataclasses.replace(pipeline.LOOP, checkpoint_every="3 steps", preview_every="1000 steps")

_context = multiprocessing.get_context("forkserver")
# What takes seconds is imported once, in the parent of all; nothing of JAX is started there.
_context.set_forkserver_preload(["tests.faults.starts", "orbax.checkpoint", "tensorboardX"])


def config(kind: str, **changes) -> Stage1Config | Stage2Config:
    """Settings of "stage1", "gan" (all phases of its losses) or "stage2", a save every 3 steps."""
    changes = {"loop": LOOP, "global_batch_size": 4, **changes}
    if kind == "gan":
        return adversarial(STEPS, **changes)
    if kind == "stage1":
        return pipeline.stage1(STEPS, **changes)
    # Latents of the encoder alone: no decoder, hence no stage-1 run that it would need.
    return pipeline.stage2(
        pathlib.Path(), STEPS, **{"autoencoder": pipeline.stage1().autoencoder, **changes}
    )


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
        kind: See `config`.
        folder: Work folder.
        events: File that gets a line "start N" before the first step, and "step N" after each.
        log: File of what the process prints.
        config: Settings that differ.
        pause: Seconds added to each step.
        before: Called first.
        at_step: Called after each step, with its number.
    """

    kind: str
    folder: pathlib.Path
    events: pathlib.Path
    log: pathlib.Path
    config: dict = dataclasses.field(default_factory=dict)
    pause: float = 0.0
    before: Callable[[], None] | None = None
    at_step: Callable[[int], None] | None = None

    def __call__(self) -> None:
        """Runs, and leaves the process as a tool would."""
        os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        self._report()
        if self.before is not None:
            self.before()
        train = stage2.train if self.kind == "stage2" else stage1.train
        status = 0
        try:
            train(config(self.kind, **self.config), self.folder)
        except BaseException as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            status = exit_status(error)
        sys.exit(status)

    def _report(self) -> None:
        events = os.open(self.events, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        run = loop.run

        def tell(step, state):
            os.write(events, f"step {step}\n".encode())
            if self.at_step is not None:
                self.at_step(step)
            time.sleep(self.pause)

        def told(*arguments, **options):
            os.write(events, f"start {options['start_step']}\n".encode())
            options["hooks"] = [*options["hooks"], hooks.Every(1, tell)]
            return run(*arguments, **options)

        loop.run = told


class Run:
    """A work folder and the processes that are started in it, one after the other."""

    def __init__(self, kind: str, folder: pathlib.Path, *, log: pathlib.Path | None = None):
        self.kind, self.folder = kind, folder
        self.log = log or folder.with_name(f"{folder.name}.log")
        self.starts = 0

    def start(self, **options) -> multiprocessing.Process:
        """Starts a process."""
        self.starts += 1
        self.events = self.folder.with_name(f"{self.folder.name}.{self.starts}.events")
        self.events.parent.mkdir(parents=True, exist_ok=True)
        self.events.touch()
        start = Start(self.kind, self.folder, self.events, self.log, **options)
        process = _context.Process(target=start)
        process.start()
        return process

    def finish(self, **options) -> "Run":
        """Starts a process and waits for its good end."""
        process = self.start(**options)
        process.join()
        assert process.exitcode == 0, self.log.read_text()
        return self

    def told(self, what: str) -> list[int]:
        """Numbers of the events "start" or "step" of the last process."""
        lines = (line.split() for line in self.events.read_text().splitlines())
        return [int(number) for name, number in lines if name == what]

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.folder / "checkpoints"

    def saved(self) -> list[int]:
        """Steps of the checkpoints that are complete."""
        if not self.checkpoints.is_dir():
            return []
        return sorted(int(name) for name in os.listdir(self.checkpoints) if name.isdecimal())

    def saving(self) -> bool:
        """Whether there is a checkpoint that is not complete."""
        return self.checkpoints.is_dir() and any(
            "tmp" in name for name in os.listdir(self.checkpoints)
        )

    def wait_for(self, condition: Callable[[], bool], process: multiprocessing.Process) -> None:
        """Returns when the condition holds, or the process has ended."""
        while process.is_alive() and not condition():
            time.sleep(0.001)

    def result(self) -> tuple[dict, list[dict]]:
        """Fingerprints of the last state, and the metrics of every step but for the speed."""
        record = self.checkpoints / str(STEPS) / "metadata" / "metadata"
        lines = map(json.loads, (self.folder / "metrics.jsonl").read_text().splitlines())
        speeds = ("per_second", "flop_utilization", "teraflops")
        metrics = [
            {name: value for name, value in line.items() if not any(s in name for s in speeds)}
            for line in lines
        ]
        return json.loads(record.read_text())["fingerprint"], metrics


@functools.cache
def unbroken(kind: str, parent: pathlib.Path) -> tuple[dict, list[dict]]:
    """Result of a run that nothing befalls."""
    fingerprint, metrics = Run(kind, parent / f"unbroken_{kind}").finish().result()
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    return fingerprint, metrics
