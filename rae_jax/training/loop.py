"""The training loop: runs a step function over batches and calls hooks; it knows no stage."""

import collections
import contextlib
import functools
import itertools
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from rae_jax.configuration.errors import Stopped
from rae_jax.sharding.ahead import placed_ahead
from rae_jax.sharding.mesh import replicated
from rae_jax.sharding.processes import global_batch
from rae_jax.training.hooks import Hook
from rae_jax.typing import PyTree

State = TypeVar("State")

_IN_FLIGHT = 2


class Interrupted(Stopped):
    """The run was asked to end; it has saved its state and goes on from there when restarted.

    Attributes:
        step: Number of finished steps.
    """

    def __init__(self, step: int):
        super().__init__(f"interrupted after step {step}; start again to go on from there")
        self.step = step


def run(
    step_function: Callable[..., tuple[State, Mapping[str, Any]]],
    state: State,
    batches: Iterable[Mapping[str, Any]],
    *,
    frozen: PyTree | None = None,
    start_step: int,
    num_steps: int,
    hooks: Sequence[Hook],
    mesh: Mesh | None = None,
) -> State:
    """Trains from `start_step` to `num_steps` finished steps.

    The step function is jitted here, once, and the state donated to it. Nothing is fetched from
    the device unless a hook does. SIGTERM and SIGINT let the step in progress finish; the hooks
    then finish too, the one that saves among them. A second signal acts at once.

    Args:
        step_function: Pure `(state, batch) -> (state, metrics)`, metrics being scalars by name;
            with `frozen`, `(state, frozen, batch) -> (state, metrics)`.
        state: State after `start_step` steps; its arrays are used up.
        batches: Host batches, the first being that of step `start_step`. The next ones are taken
            and put on the devices while these compute.
        frozen: Arrays that the step reads and never changes, such as an encoder's. Closed over
            instead, they would be compiled into the program as constants.
        start_step: Steps already finished.
        num_steps: Steps that are finished when the run is, counted from its very beginning.
        hooks: Called in this order after every step, and once at the end.
        mesh: Mesh over whose devices `state` lies. Batches are cut over it and the step is traced
            under it. None leaves everything on the first device.

    Returns:
        The last state.

    Raises:
        Interrupted: A signal ended the run early.
        ValueError: There are fewer batches than steps.
    """
    compiled = jitted(step_function, state, mesh)
    fixed = () if frozen is None else (frozen,)
    in_flight: collections.deque[Any] = collections.deque()
    place = jax.device_put if mesh is None else functools.partial(global_batch, mesh)
    # No batch is taken that no step is for: whoever gives them may hold on to what follows.
    needed = itertools.islice(batches, max(num_steps - start_step, 0))
    done, stopped = start_step, False
    with contextlib.ExitStack() as stack:
        if mesh is not None:
            stack.enter_context(jax.set_mesh(mesh))
        asked_to_stop = stack.enter_context(_stop_requests())
        source = stack.enter_context(contextlib.closing(placed_ahead(needed, place)))
        while done < num_steps and not stopped:
            batch = _next(source, done, num_steps)
            state, metrics = compiled(state, *fixed, batch)
            done += 1
            # Without a limit the host would run ahead and fill the device with batches.
            in_flight.append(metrics)
            if len(in_flight) > _IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
            for hook in hooks:
                hook(done, state, metrics)
            stopped = asked_to_stop(done)
        for hook in hooks:
            hook.finish(done, state)
    if stopped:
        raise Interrupted(done)
    return state


def jitted(step_function: Callable[..., Any], state: PyTree, mesh: Mesh | None) -> Any:
    """The step function as `run` compiles it, for a state whose arrays, or shapes, are placed."""
    if mesh is None:
        return jax.jit(step_function, donate_argnums=0)
    whole = replicated(mesh)
    # The state keeps its shardings, else the second step would be compiled anew; metrics are
    # whole everywhere, so that every process can read them.
    shardings = jax.tree.map(
        lambda leaf: leaf.sharding if isinstance(leaf.sharding, NamedSharding) else whole, state
    )
    return jax.jit(step_function, donate_argnums=0, out_shardings=(shardings, whole))


def _next(source: Iterator[Mapping[str, Any]], done: int, num_steps: int) -> Mapping[str, Any]:
    try:
        return next(source)
    except StopIteration:
        raise ValueError(
            f"the batches end after step {done}, but the run has {num_steps} steps; "
            "repeat the data or shorten the run"
        ) from None


@contextlib.contextmanager
def _stop_requests() -> Iterator[Callable[[int], bool]]:
    """Gives a function that tells after each step whether the run shall end."""
    if jax.process_count() > 1:
        # jax's own handler lets all processes agree on one step; one of ours would replace it.
        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False  # Only the main thread may set handlers.
        return
    request = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: Any) -> None:
        logging.warning("%s: ending after this step", signal.Signals(number).name)
        request.set()
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda step: request.is_set()
    finally:
        restore()
