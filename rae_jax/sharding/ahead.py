"""Batches on the devices before they are asked for."""

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Host = TypeVar("Host")
Placed = TypeVar("Placed")

_BATCHES = 2


def placed_ahead(
    batches: Iterable[Host], place: Callable[[Host], Placed], *, count: int = _BATCHES
) -> Generator[Placed, None, None]:
    """The batches after `place`, in order, `count` of them taken and placed ahead of their use.

    A thread takes and places, so that neither waiting for data nor copying to the devices holds
    up who dispatches their work. Errors come out where their batch would have. Closing the
    iterator ends the thread.

    Args:
        batches: Host batches.
        place: Puts one on the devices.
        count: How many lie ready, at least one.
    """
    source = iter(batches)
    end = object()

    def prepare() -> Placed | object:
        batch = next(source, end)
        return batch if batch is end else place(batch)  # pyright: ignore[reportArgumentType]

    with ThreadPoolExecutor(1, thread_name_prefix="placed_ahead") as thread:
        pending: collections.deque[Future] = collections.deque()
        try:
            while True:
                while len(pending) <= count:
                    pending.append(thread.submit(prepare))
                batch = pending.popleft().result()
                if batch is end:
                    return
                yield batch
        finally:
            for future in pending:
                future.cancel()
