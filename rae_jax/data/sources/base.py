"""What every source gives."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rae_jax.typing import Int

Record = dict[str, Any]
"""`image` uint8 [H, W, 3], `label` int32, `index` int64."""


@runtime_checkable
class Source(Protocol):
    """Random access to labelled images."""

    def __len__(self) -> int:
        """Number of records."""
        ...

    def __getitem__(self, index: int) -> Record:
        """The record at `index`, the same at every call."""
        ...


@runtime_checkable
class LabelledSource(Source, Protocol):
    """A source that knows the names of its classes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty without classes."""
        ...


def record(image: np.ndarray, label: int | np.integer, index: int) -> Record:
    """A record of fixed types, which batches rely on."""
    return {"image": image, "label": np.int32(label), "index": np.int64(index)}


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """Some records of a source.

    Attributes:
        source: The source.
        numbers: Numbers of the records in it, in the order in which they are given.
    """

    source: Source
    numbers: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.numbers[index])]
