"""Draws the numbers of `metrics.jsonl` as curves."""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rae_jax.files import replacing
from rae_jax.typing import Float, Int

Curve = tuple[Int[np.ndarray, " K"], Float[np.ndarray, " K"]]


def read_metrics(path: str | pathlib.Path) -> dict[str, Curve]:
    """Name -> (steps, values) of everything that `JsonLinesWriter` has noted, in its order.

    Raises:
        FileNotFoundError: There is no such file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no metrics file {path}; a run writes it with the writer 'jsonl'")
    points: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # The run is writing this line just now.
        values = json.loads(line)
        step = values.pop("step")
        for name, value in values.items():
            points.setdefault(name, []).append((step, float(value)))
    return {
        name: (np.array([s for s, _ in pairs], np.int64), np.array([v for _, v in pairs]))
        for name, pairs in points.items()
    }


def smoothed(values: Float[np.ndarray, " K"], span: float) -> Float[np.ndarray, " K"]:
    """Exponential moving average over about `span` points, unbiased at the start; skips NaN."""
    keep = 1 - 1 / max(span, 1.0)
    total, weight = 0.0, 0.0
    result = np.full(values.shape, np.nan)
    for index, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        if weight:
            result[index] = total / weight
    return result


def draw_curves(
    metrics: str | pathlib.Path,
    picture: str | pathlib.Path,
    names: Sequence[str] | None = None,
) -> None:
    """Draws one panel per metric, the raw values faint and their moving average over them.

    Args:
        metrics: A `metrics.jsonl`.
        picture: PNG to write.
        names: Which metrics, all unless given.

    Raises:
        FileNotFoundError: There is no metrics file.
        ValueError: It has no numbers yet, or not the ones asked for.
    """
    curves = read_metrics(metrics)
    names = list(curves) if names is None else list(names)
    unknown = [name for name in names if name not in curves]
    if unknown or not names:
        raise ValueError(f"{metrics} has no metric {unknown or ''}; it has {sorted(curves)}")
    draw_panels({name: curves[name] for name in names}, picture)


def draw_panels(curves: Mapping[str, Curve], picture: str | pathlib.Path) -> None:
    """Draws one panel per named curve, the raw values faint and their moving average over them.

    Raises:
        ValueError: No curves.
    """
    if not curves:
        raise ValueError("a picture of curves needs at least one")
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (name, (steps, values)) in enumerate(curves.items()):
        panel = figure.add_subplot(rows, columns, index + 1)
        panel.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=0.8, label="logged")
        average = smoothed(values, len(values) / 50)
        panel.plot(steps, average, color="tab:blue", linewidth=1.6, label="moving average")
        panel.set_title(name)
        panel.set_xlabel("step")
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
        if index == 0:
            panel.legend(fontsize="small")
    with replacing(picture) as partial:
        figure.savefig(partial, format="png", dpi=110)
