"""How fast a loop goes."""

import time
from collections.abc import Callable


class Throughput:
    """Steps and images per second between two measurements.

    The caller sees to it that the device has finished the step it names, for instance by having
    fetched a result of that step; steps that are only dispatched would count as done.
    """

    def __init__(self, images_per_step: int, clock: Callable[[], float] = time.perf_counter):
        self.images_per_step = images_per_step
        self._clock = clock
        self._mark: tuple[int, float] | None = None

    def start(self, step: int) -> None:
        """Begins a window at `step` finished steps; after the first step, compiling stays out."""
        self._mark = (step, self._clock())

    def measure(self, step: int) -> dict[str, float]:
        """Rates since the last `start` or `measure`, and begins the next window.

        Returns:
            `steps_per_second` and `images_per_second`; nothing if no step lies in the window.
        """
        mark, now = self._mark, self._clock()
        self._mark = (step, now)
        if mark is None or step <= mark[0] or now <= mark[1]:
            return {}
        rate = (step - mark[0]) / (now - mark[1])
        return {"steps_per_second": rate, "images_per_second": rate * self.images_per_step}
