"""Durations: text such as "16 epochs", "2000 steps" or "512000 images" to optimizer steps."""

import dataclasses
import math
import re
from typing import Literal

from rae_jax.configuration.errors import ConfigError

Unit = Literal["epochs", "steps", "images"]

_UNITS: dict[str, Unit] = {
    "epoch": "epochs",
    "epochs": "epochs",
    "step": "steps",
    "steps": "steps",
    "image": "images",
    "images": "images",
}
_PATTERN = re.compile(r"\s*(\d[\d_]*(?:\.\d+)?)\s*([A-Za-z]+)\s*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duration:
    """An amount of training; only epochs may be fractions."""

    amount: float
    unit: Unit


def parse_duration(text: str) -> Duration:
    """Amount and unit written in `text`.

    Raises:
        ConfigError: `text` is not a number of at least 0 and a known unit, or is a fraction of
            something other than epochs.
    """
    match = _PATTERN.fullmatch(text)
    if match is None or match[2].lower() not in _UNITS:
        raise ConfigError(
            "must be a number and a unit, such as '16 epochs', '2000 steps' or '512000 images', "
            f"got {text!r}"
        )
    duration = Duration(amount=float(match[1]), unit=_UNITS[match[2].lower()])
    if duration.unit != "epochs" and not duration.amount.is_integer():
        raise ConfigError(f"must be a whole number of {duration.unit}, got {text!r}")
    return duration


def steps_per_epoch(num_records: int, global_batch_size: int) -> float:
    """Optimizer steps in which every record is seen once; a fraction where batches straddle epochs.

    Raises:
        ValueError: A count is below 1.
    """
    if num_records < 1 or global_batch_size < 1:
        raise ValueError(
            "an epoch needs at least one record and one image per batch, got "
            f"{num_records} records and global_batch_size {global_batch_size}"
        )
    return num_records / global_batch_size


def steps(text: str, *, steps_per_epoch: int | float, global_batch_size: int) -> int:
    """Optimizer steps nearest to the duration `text`; at least one unless the amount is zero.

    Args:
        text: Number and unit, such as "16 epochs", "2000 steps" or "512000 images".
        steps_per_epoch: Steps in which every record is seen once, from the function of that name.
        global_batch_size: Images per step over all processes.

    Raises:
        ConfigError: `text` is not a duration.
        ValueError: `steps_per_epoch` or `global_batch_size` is not positive.
    """
    if steps_per_epoch <= 0 or global_batch_size < 1:
        raise ValueError(
            "steps_per_epoch and global_batch_size must be positive, got "
            f"{steps_per_epoch} and {global_batch_size}"
        )
    duration = parse_duration(text)
    steps_per_unit = {
        "epochs": steps_per_epoch,
        "steps": 1,
        "images": 1 / global_batch_size,
    }
    exact = duration.amount * steps_per_unit[duration.unit]
    return max(math.floor(exact + 0.5), 1) if exact > 0 else 0
