"""What happens every so many steps of the loop: logging, saving, checking, showing, previews."""

import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.monitoring.operations import utilization
from rae_jax.monitoring.progress import progress_bar
from rae_jax.monitoring.timing import Throughput
from rae_jax.monitoring.writers import Writer
from rae_jax.typing import Array, Int

Metrics = Mapping[str, Any]
"""Scalars by name, still on the device."""


@runtime_checkable
class Hook(Protocol):
    """Is called by the loop after every step, and once at the end or on interruption.

    The state is used up by the next step: a hook must not keep it.
    """

    def __call__(self, step: int, state: Any, metrics: Metrics) -> None:
        """Acts after a step, `step` being the number of finished ones."""
        ...

    def finish(self, step: int, state: Any) -> None:
        """Acts after the last step."""
        ...


class LogMetrics:
    """Writes the metrics of every `every`-th step, with the speed since the last time."""

    def __init__(
        self,
        every: int,
        writers: Sequence[Writer],
        images_per_step: int,
        operations: Callable[[int], float] | None = None,
    ):
        """Prepares the log.

        Args:
            every: Interval in steps.
            writers: Where it goes.
            images_per_step: Over all processes.
            operations: Floating-point operations of the step that follows so many finished ones,
                over all devices; None leaves their rate out.
        """
        self.every = _positive(every)
        self.writers = writers
        self._operations = operations
        self._throughput = Throughput(images_per_step)
        self._started = False

    def __call__(self, step: int, state: Any, metrics: Metrics) -> None:
        """Fetches and writes the metrics, if it is their turn."""
        if not self._started:
            # The first step includes compilation, which is no part of the speed.
            jax.block_until_ready(metrics)
            self._throughput.start(step)
            self._started = True
        if step % self.every:
            return
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        speed = self._throughput.measure(step)
        if self._operations is not None and speed:
            speed |= utilization(self._operations(step - 1) * speed["steps_per_second"])
        values |= speed
        for writer in self.writers:
            writer.scalars(step, values)
        if not sys.stderr.isatty():  # On a terminal the progress bar tells.
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            logging.info("step %d: %s", step, shown)

    def finish(self, step: int, state: Any) -> None:
        """Does nothing: the last step is not logged out of turn."""


class SaveCheckpoint:
    """Saves every `every` steps, at the steps that the manager keeps forever, and at the end."""

    def __init__(self, every: int, manager: CheckpointManager, metadata: Mapping[str, Any]):
        self.every = _positive(every)
        self.manager = manager
        self.metadata = metadata

    def __call__(self, step: int, state: Any, metrics: Metrics) -> None:
        """Starts a save, if it is time, or ends the run if the one before has failed."""
        self.manager.check()
        if step % self.every == 0 or self.manager.keeps(step):
            self.manager.save(step, state, self.metadata)

    def finish(self, step: int, state: Any) -> None:
        """Saves, unless this very step is saved, and waits until it is on disk."""
        self.manager.save(step, state, self.metadata)
        self.manager.wait()


_HOPELESS = 10
"""Skipped steps in a row that end a run, if not a single one was sound between two looks."""


@jax.jit
def _first_bad(
    first: Int[Array, ""], step: Int[Array, ""], metrics: dict[str, Any]
) -> Int[Array, ""]:
    bad = jnp.any(jnp.stack([~jnp.isfinite(value) for value in metrics.values()]))
    return jnp.where(bad & (first < 0), step, first)


class StopOnNonFinite:
    """Ends the run if a metric is NaN or infinite in any step.

    Every step is checked on the device, and every so many steps the answer is fetched. List it
    before `SaveCheckpoint`, with the intervals of that, so that no broken state is saved.
    """

    def __init__(
        self,
        every: int | Sequence[int],
        batch_of: Callable[[int], Sequence[int]] | None = None,
    ):
        """Prepares the check.

        Args:
            every: Interval in steps, or several.
            batch_of: Numbers of the records in the batch of a step, for the message.
        """
        self.intervals = [_positive(n) for n in ([every] if isinstance(every, int) else every)]
        self._batch_of = batch_of
        self._first: Any = np.int32(-1)
        self._checked: int | None = None
        self._latest: Metrics = {}

    def __call__(self, step: int, state: Any, metrics: Metrics) -> None:
        """Notes on the device whether the step was sound, and looks if it is time."""
        if self._checked is None:
            self._checked = step - 1
        self._latest = metrics
        if metrics:
            self._first = _first_bad(jnp.asarray(self._first), np.int32(step), dict(metrics))
        if any(step % interval == 0 for interval in self.intervals):
            self._check(step)

    def finish(self, step: int, state: Any) -> None:
        """Checks the steps since the last look."""
        self._check(step)

    def _check(self, step: int) -> None:
        first = int(self._first)
        if first >= 0:
            values = {name: float(value) for name, value in self._latest.items()}
            bad = {name: value for name, value in values.items() if not np.isfinite(value)}
            raise FloatingPointError(
                f"training broke down at step {first}, found when checking steps "
                f"{(self._checked or 0) + 1} to {step}: a metric was not finite; in step {step}: "
                f"{bad or 'all are finite again'}{self._records(first)}; lower the learning rate, "
                "clip gradients, or go on from an earlier checkpoint"
            )
        self._checked = step

    def _records(self, step: int) -> str:
        if self._batch_of is None:
            return ""
        return f"; the batch of step {step} held the records {list(self._batch_of(step))}"


class StopIfAllSkipped:
    """Ends a run whose steps change nothing any more, because no loss or gradient is finite.

    It looks at the count of skipped steps every `every` steps.
    """

    def __init__(self, every: int):
        self.every = _positive(every)
        self._before: tuple[int, int] | None = None

    def __call__(self, step: int, state: Any, metrics: Metrics) -> None:
        """Looks, if it is time, and tells of steps that were skipped since the last look."""
        if step % self.every:
            return
        skipped = int(metrics["skipped_steps"])
        last_step, last_skipped = self._before or (step - self.every, 0)
        self._before = step, skipped
        if skipped == last_skipped:
            return
        if skipped - last_skipped >= max(step - last_step, _HOPELESS):
            raise FloatingPointError(
                f"a loss or gradient was not finite in any of the steps {last_step + 1} to {step}, "
                "which were all skipped; lower the learning rate, clip gradients, or look for "
                "broken images"
            )
        logging.warning("step %d: %d steps were skipped so far as not finite", step, skipped)

    def finish(self, step: int, state: Any) -> None:
        """Does nothing."""


class ShowProgress:
    """A progress bar with the time left, and the loss where the metrics have one."""

    def __init__(self, start_step: int, num_steps: int, every: int = 10):
        self.every = _positive(every)
        self._shown = start_step
        self._before: Metrics = {}
        self._bar = progress_bar(num_steps, done=start_step, description="training")

    def __call__(self, step: int, state: Any, metrics: Metrics) -> None:
        """Moves the bar, if it is time."""
        if step % self.every == 0 and not self._bar.disable:
            # The loss of the step before: that of this one may still be computed.
            if "loss" in self._before:
                self._bar.set_postfix(loss=f"{float(self._before['loss']):.4g}", refresh=False)
            self._advance(step)
        self._before = metrics

    def finish(self, step: int, state: Any) -> None:
        """Closes the bar."""
        self._advance(step)
        self.close()

    def close(self) -> None:
        """Closes the bar as it is; for runs that end through an error, which do not finish."""
        self._bar.close()

    def _advance(self, step: int) -> None:
        self._bar.update(step - self._shown)
        self._shown = step


class Every:
    """Calls `function(step, state)` every `every` steps: previews, evaluations."""

    def __init__(self, every: int, function: Callable[[int, Any], None]):
        self.every = _positive(every)
        self.function = function

    def __call__(self, step: int, state: Any, metrics: Metrics) -> None:
        """Calls the function, if it is time."""
        if step % self.every == 0:
            self.function(step, state)

    def finish(self, step: int, state: Any) -> None:
        """Does nothing."""


class Profile:
    """Records a profiler trace of the `num_steps` steps after step `first_step`."""

    def __init__(self, folder: str | pathlib.Path, first_step: int, num_steps: int):
        self.folder = str(folder)
        self.first_step = first_step
        self.num_steps = _positive(num_steps)
        self._running = False

    def __call__(self, step: int, state: Any, metrics: Metrics) -> None:
        """Starts or stops the trace at its step."""
        if step == self.first_step:
            jax.block_until_ready(metrics)
            jax.profiler.start_trace(self.folder)
            self._running = True
        elif step == self.first_step + self.num_steps:
            self._stop(metrics)

    def finish(self, step: int, state: Any) -> None:
        """Stops a trace that still runs."""
        self._stop(state)

    def _stop(self, results: Any) -> None:
        if self._running:
            jax.block_until_ready(results)
            jax.profiler.stop_trace()
            self._running = False


def _positive(every: int) -> int:
    if every < 1:
        raise ValueError(f"an interval must be at least 1 step, got {every}")
    return every
