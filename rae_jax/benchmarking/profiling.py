"""What a program spends its time on, by the operations that XLA made of it."""

import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax

from rae_jax.benchmarking.report import Row

_CONTAINERS = ("while", "conditional", "call")
"""Operations whose time is that of those inside."""


def costs(run: Callable[[], Any], folder: str | os.PathLike[str], most: int = 3) -> list[Row]:
    """Runs once under the profiler; the dearest operations, each with its share of all.

    Args:
        run: Runs the compiled program and waits for it.
        folder: Gets the profile, which TensorBoard and Perfetto show whole.
        most: How many operations.
    """
    with jax.profiler.trace(os.fspath(folder)):
        run()
    path = max(pathlib.Path(folder).rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
    spent: Counter[str] = Counter()
    for name, duration in _operations(jax.profiler.ProfileData.from_file(str(path))):
        spent[name] += duration
    total = sum(spent.values())
    return [
        {"operation": name, "ms": duration / 1e6, "share": duration / total}
        for name, duration in spent.most_common(most)
    ]


def _operations(profile: Any) -> Iterator[tuple[str, int]]:
    """Name and nanoseconds of all operations that ran, kernels of a device by their name too."""
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        for line in plane.lines:
            # What is summed up from the streams of a device stands beside them.
            if devices and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is None or str(name).split(".")[0] in _CONTAINERS:
                    continue
                shown = f"{name} ({event.name})" if devices else str(name)
                yield shown, int(event.duration_ns)
