"""Measured rows as a table and as JSON, with the machine and versions they belong to."""

import importlib.metadata
import json
import os
import pathlib
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rae_jax.files import replacing

USED = (
    *("rae_jax", "jax", "jaxlib", "flax", "numpy", "pillow", "grain", "array_record", "numba"),
    *("simplejpeg", "torch", "diffusers", "transformers", "torch_fidelity"),
)
"""Distributions whose versions matter."""

Row = dict[str, Any]
"""One measurement: what was measured, and numbers by name with their unit."""


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, and how busy they were just before."""
    return {
        "processor": _processor(),
        "cores": num_cores(),
        "system": platform.platform(),
        "load": os.getloadavg()[0],
    }


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def table(rows: Sequence[Row], columns: Sequence[str] = ()) -> str:
    """The rows in columns for a terminal or a document; numbers with few digits.

    Args:
        rows: What to show; lists among their values are left out.
        columns: Names to show, in this order; all that there are unless given.
    """
    there = dict.fromkeys(name for row in rows for name in row)
    lists = {name for row in rows for name, value in row.items() if isinstance(value, list)}
    names = [name for name in columns or there if name not in lists]
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
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def write(path: str | os.PathLike[str], command: str, tables: Mapping[str, Sequence[Row]]) -> None:
    """Writes the rows and all that they depend on to the JSON file `path`.

    Args:
        path: The file.
        command: That measured them.
        tables: Rows by the name of their table.
    """
    content = {
        "command": command,
        "machine": machine(),
        "versions": versions(USED),
        "tables": {name: list(rows) for name, rows in tables.items()},
    }
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


_PLACE = re.compile(
    r"(?P<head><!-- benchmark (?P<name>[\w-]+)(?:: (?P<columns>[^>]*?))? -->\n)"
    r".*?(?P<end><!-- end of benchmark -->)",
    re.DOTALL,
)


def update(path: str | os.PathLike[str], command: str, tables: Mapping[str, Sequence[Row]]) -> None:
    """Puts the tables where a document has a place for them.

    A place begins with the line `<!-- benchmark NAME: COLUMN, COLUMN -->`, or without the columns
    to have all, and ends with `<!-- end of benchmark -->`. NAME is that of a table, or "machine"
    for the command, machine and versions. Places of other names stay as they are.

    Raises:
        FileNotFoundError: There is no such document.
        ValueError: It has no place for any of the tables.
    """
    document = pathlib.Path(path)
    text = document.read_text(encoding="utf-8")

    def filled(place: re.Match[str]) -> str:
        name, columns = place["name"], place["columns"]
        if name == "machine":
            shown = described(command)
        elif name in tables:
            shown = table(tables[name], columns.split(", ") if columns else ())
        else:
            return place[0]
        return f"{place['head']}\n{shown}\n\n{place['end']}"

    if not {place["name"] for place in _PLACE.finditer(text)} & set(tables):
        raise ValueError(
            f"{path} has no place for {', '.join(tables)}; a place begins with the line "
            "<!-- benchmark NAME --> and ends with <!-- end of benchmark -->"
        )
    with replacing(document) as partial:
        partial.write_text(_PLACE.sub(filled, text), encoding="utf-8")


def described(command: str) -> str:
    """What the numbers depend on, in lines of text."""
    here = machine()
    used = ", ".join(f"{name} {number}" for name, number in versions(USED).items())
    return (
        f"`{command}`\n\n{here['cores']} cores of {here['processor']}, load "
        f"{here['load']:.1f} at the end; {used}."
    )
