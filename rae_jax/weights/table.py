"""Weight tables: rows that say which published entries become which parameter, and how.

Import and export read the same rows: every transform knows its inverse.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

Arrays = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Transform:
    """A change of layout between the entries of a file and one parameter.

    Attributes:
        name: What reports call it.
        forward: Entries (one per source key of the rule) to parameter.
        inverse: Parameter and number of source keys back to entries.
    """

    name: str
    forward: Callable[[Arrays], np.ndarray]
    inverse: Callable[[np.ndarray, int], list[np.ndarray]]


def _conv_patch_forward(entries: Arrays) -> np.ndarray:
    width = entries[0].shape[0]
    return entries[0].transpose(2, 3, 1, 0).reshape(-1, width)


def conv_patch(patch_size: int) -> Transform:
    """[D, C, p, p] convolution to [p*p*C, D] kernel; rows in order (row, column, channel)."""

    def inverse(kernel: np.ndarray, count: int) -> list[np.ndarray]:
        del count
        square = kernel.reshape(patch_size, patch_size, -1, kernel.shape[-1])
        return [np.ascontiguousarray(square.transpose(3, 2, 0, 1))]

    return Transform("conv_patch", _conv_patch_forward, inverse)


IDENTITY = Transform("identity", lambda e: e[0], lambda p, count: [p])
CONV_2D = Transform(
    "OIHW to HWIO",
    lambda e: e[0].transpose(2, 3, 1, 0),
    lambda p, count: [p.transpose(3, 2, 0, 1)],
)
CHANNELS_LAST = Transform(
    "CHW to HWC", lambda e: e[0].transpose(1, 2, 0), lambda p, count: [p.transpose(2, 0, 1)]
)
LINEAR = Transform("transpose", lambda e: e[0].T, lambda p, count: [p.T])
FUSED_LINEAR = Transform(
    "concatenate outputs, transpose",
    lambda e: np.concatenate(e, axis=0).T,
    lambda p, count: list(np.split(p.T, count, axis=0)),
)
FUSED_BIAS = Transform(
    "concatenate",
    lambda e: np.concatenate(e, axis=0),
    lambda p, count: list(np.split(p, count, axis=0)),
)


def squeeze(leading_axes: int) -> Transform:
    """Drops (and on export restores) `leading_axes` leading axes of length one."""

    def forward(entries: Arrays) -> np.ndarray:
        if any(size != 1 for size in entries[0].shape[:leading_axes]):
            raise ValueError(f"leading axes of {entries[0].shape} must have length 1")
        return entries[0].reshape(entries[0].shape[leading_axes:])

    return Transform(
        "squeeze", forward, lambda p, count: [p.reshape((1,) * leading_axes + p.shape)]
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row: source key pattern(s) -> target path, transform.

    Attributes:
        source: Key pattern, or several whose entries become one parameter. `{i}` stands for the
            layer index; its entries are stacked on the target's first axis.
        target: Dotted path of the parameter.
        transform: Change of layout, applied to each layer alone.
        first_layer: Index that the file gives to the stack's first layer.
    """

    source: str | tuple[str, ...]
    target: str
    transform: Transform = IDENTITY
    first_layer: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """The source patterns as a tuple."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def stacked(self) -> bool:
        """Whether the row covers one layer of a stack."""
        return "{i}" in self.sources[0]


@dataclasses.dataclass(frozen=True)
class WeightTable:
    """All rows of one model's published file.

    Attributes:
        rules: The rows.
        ignored_source: Regular expressions (full match) of entries that the model does not use.
        optional_target: Targets that keep their constructed value when the file lacks them.
    """

    rules: tuple[Rule, ...]
    ignored_source: tuple[str, ...] = ()
    optional_target: tuple[str, ...] = ()

    def ignores(self, key: str) -> bool:
        """Whether `key` is known and unused."""
        return any(re.fullmatch(pattern, key) for pattern in self.ignored_source)
