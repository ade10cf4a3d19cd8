"""A progress bar that shows the time left, and stays out of the way of log files."""

import sys
import time

from tqdm import tqdm

from rae_jax.sharding.processes import is_main_process

_LOG_FILE_INTERVAL = 60.0


class _Bar(tqdm):
    """The bar by a clock that nobody sets; the usual one stands still if the time is put back."""

    monitor_interval = 0  # No thread that looks at the usual clock.
    _time = property(lambda bar: time.monotonic, lambda bar, clock: None)


def progress_bar(total: int, *, done: int = 0, description: str = "", unit: str = "step") -> tqdm:
    """Bar over `total` units of which `done` are done already.

    On a terminal it is redrawn ten times a second at most; elsewhere, where every redraw is a
    line, once a minute. Only the main process draws.
    """
    terminal = sys.stderr.isatty()
    return _Bar(
        total=total,
        initial=done,
        desc=description,
        unit=unit,
        miniters=1,
        mininterval=0.1 if terminal else _LOG_FILE_INTERVAL,
        dynamic_ncols=terminal,
        disable=not is_main_process(),
    )
