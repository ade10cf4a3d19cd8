"""A switch for the libraries that give the same bytes sooner, to compare with and without."""

import contextlib
import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass
class _Switch:
    on: bool = True


_switch = _Switch()


def are_used() -> bool:
    """Whether numba and simplejpeg are used where they are installed."""
    return _switch.on


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Decodes and resizes by PIL alone, in all threads of this process."""
    _switch.on = False
    try:
        yield
    finally:
        _switch.on = True
