"""Sides take turns in one part, round by round, and medians are compared."""

import dataclasses
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rae_jax.benchmarking.presets import Settings
from rae_jax.benchmarking.report import Row
from rae_jax.benchmarking.sides import Side


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the rounds said of one side.

    Attributes:
        seconds: Of every round.
        products: Seconds of its matrix products alone, of every round; empty if it does not tell.
        memory: Bytes.
        facts: See `Side`.
        difference: Largest difference from the first side's answer, of which that is the largest
            number; None for the first side and where chance is in the answer.
    """

    seconds: tuple[float, ...]
    products: tuple[float, ...]
    memory: float
    facts: Mapping[str, Any]
    difference: float | None


def take_turns(sides: Sequence[Side], rounds: int, limit: float = math.inf) -> list[Measured]:
    """Runs every side once to warm up, then all of them in turn, `rounds` times.

    The matrix products of a side are measured in every round too, so that all is told under the
    same conditions.

    Args:
        sides: In the order of their turns.
        rounds: At the most.
        limit: Seconds after which no further round begins; the first one always does.

    Raises:
        ValueError: The answers of the sides are not of one size.
    """
    answers = [side.first() for side in sides]
    seconds: list[list[float]] = [[] for _ in sides]
    products: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side.products()
    start = time.perf_counter()
    for played in range(rounds):
        if played and time.perf_counter() - start > limit:
            break
        for number, side in enumerate(sides):
            seconds[number].append(side.run())
        for number, side in enumerate(sides):
            taken = side.products()
            products[number] += [] if taken is None else [taken]
    return [
        Measured(
            tuple(seconds[number]),
            tuple(products[number]),
            side.memory(),
            side.facts,
            _difference(answers[0], answers[number]) if number else None,
        )
        for number, side in enumerate(sides)
    ]


def _difference(ours: list[float] | None, theirs: list[float] | None) -> float | None:
    if ours is None or theirs is None:
        return None
    first, second = np.asarray(ours), np.asarray(theirs)
    if first.shape != second.shape:
        raise ValueError(
            f"answers must have one size, got {first.size} and {second.size} numbers of them"
        )
    return float(np.abs(first - second).max() / np.abs(first).max())


def rows(settings: Settings, measured: Sequence[Measured]) -> list[Row]:
    """One row per side; the first side's operations and products count for all of them."""
    ours = measured[0]
    operations = ours.facts.get("operations")
    limit = statistics.median(ours.products) if ours.products else None
    ours_median = statistics.median(ours.seconds)
    found = []
    for side in measured:
        median = statistics.median(side.seconds)
        low, high = quartiles(side.seconds)
        found.append(
            {
                "part": settings.part,
                "batch": settings.batch_size,
                "side": side.facts["version"],
                "seconds": median,
                "quartiles": f"{low:.3g} to {high:.3g}",
                "images/s": settings.batch_size / median,
                "ours is faster": None if side is ours else median / ours_median,
                "GFLOP/s": operations / median / 1e9 if operations else None,
                "of product rate": limit / median if limit else None,
                "memory MB": side.memory / 1e6,
                "compile s": side.facts.get("compile_seconds"),
                "difference": side.difference,
                **_fused(side),
                "rounds": list(side.seconds),
            }
        )
    return found


def _fused(side: Measured) -> Row:
    """How often cuDNN's attention stands in the program, where that was looked at."""
    name = "flash_attention_calls"
    return {"cuDNN attentions": int(side.facts[name])} if name in side.facts else {}


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(low), float(high)
