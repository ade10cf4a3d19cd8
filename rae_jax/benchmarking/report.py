"""Measured rows as a table and as JSON, with the machine and versions they belong to."""

import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Iterable, Sequence
from typing import Any

from rae_jax.files import replacing

Row = dict[str, Any]
"""One measurement: what was measured, and numbers by name with their unit."""


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, and how busy they were just before."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": platform.platform(),
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of those of the distributions that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def table(rows: Sequence[Row]) -> str:
    """The rows in columns for a terminal or a document; numbers with four digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write(
    path: str | os.PathLike[str], part: str, command: str, rows: Sequence[Row], used: Iterable[str]
) -> None:
    """Writes the rows and all that they depend on to the JSON file `path`."""
    content = {
        "part": part,
        "command": command,
        "machine": machine(),
        "versions": versions(used),
        "rows": list(rows),
    }
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
