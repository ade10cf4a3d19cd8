"""The blocks of a data set whose moments are taken, in files that outlive a kill.

Every start of every process writes one file of its own, again and again, into a folder that all
of them share. Together the files hold each block once, merged with its neighbours along the one
tree of `MergeTree`; so what comes out does not depend on which process did what, and when.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from rae_jax.files import AnyPath, replacing
from rae_jax.reconstruction.latent_statistics import (
    BatchMoments,
    LatentStatistics,
    Moments,
    MomentumAverage,
    momentum_combine,
)
from rae_jax.reconstruction.merge_tree import MergeTree
from rae_jax.typing import Bool


@dataclasses.dataclass(frozen=True)
class Task:
    """What the moments are of; those of different tasks do not mix.

    Attributes:
        num_records: Images of the data set.
        batch_size: Images of a block.
        encoder: Fingerprint.
        momentum: See `StatisticsConfig`.
        ranks: See `StatisticsConfig`.
    """

    num_records: int
    batch_size: int
    encoder: str
    momentum: float = 0.0
    ranks: int = 1

    @property
    def num_blocks(self) -> int:
        """How many blocks there are; the last one may be shorter than the others."""
        return -(-self.num_records // self.batch_size)

    def records(self, blocks: np.ndarray) -> np.ndarray:
        """Numbers of the records in these blocks."""
        starts = blocks[:, None] * self.batch_size
        numbers = (starts + np.arange(self.batch_size)).reshape(-1)
        return numbers[numbers < self.num_records]


class Blocks:
    """Moments of some of the blocks of a task."""

    def __init__(self, task: Task):
        self._task = task
        self._kind = MomentumAverage if task.momentum else Moments
        # The blocks of one rank are its parts 0, 1, 2, ...
        self._trees: list[MergeTree] = [MergeTree() for _ in range(task.ranks)]

    def add(self, block: int, batch: BatchMoments) -> None:
        """Takes in one block.

        Raises:
            FloatingPointError: Its moments are not finite.
        """
        if not all(np.isfinite(leaf).all() for leaf in batch):
            records = self._task.records(np.array([block]))
            raise FloatingPointError(
                f"features of the images number {records[0]} to {records[-1]} are NaN or infinite; "
                "compute with dtype='float32', or look at these images and the encoder's weights"
            )
        momentum, ranks = self._task.momentum, self._task.ranks
        node = MomentumAverage.of(batch, momentum) if momentum else Moments.of(batch)
        self._trees[block % ranks].add(node, block // ranks)

    def done(self) -> Bool[np.ndarray, " n"]:
        """For each block of the task whether it is in."""
        done = np.zeros(self._task.num_blocks, bool)
        for rank, level, index, _ in self._nodes():
            done[self._blocks(rank, level, index)] = True
        return done

    def statistics(self) -> LatentStatistics:
        """Statistics of all blocks, which must be in."""
        merged = [tree.merged() for tree in self._trees]
        whole = momentum_combine(merged) if self._task.momentum else merged[0].statistics()
        return dataclasses.replace(whole, encoder=self._task.encoder)

    def save(self, path: AnyPath) -> None:
        """Writes all of them; an older file is replaced at once by a complete one."""
        nodes = list(self._nodes())
        columns = {
            field.name: np.stack([getattr(node, field.name) for *_, node in nodes])
            for field in dataclasses.fields(self._kind)
        }
        places = np.array([place for *place, _ in nodes])
        task = json.dumps(dataclasses.asdict(self._task))
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, task=task, places=places, **columns)  # pyright: ignore[reportArgumentType]

    def load(self, folder: AnyPath) -> "Blocks":
        """Takes in what the files in `folder` hold; those that cannot be read are told of.

        Raises:
            ValueError: A file is of another task.
        """
        for path in sorted(folder.glob("*.npz")):
            content = _read(path)
            if content is not None:
                self._require_same(path, content["task"])
                self._take(path, content["places"], content["columns"])
        return self

    def _take(self, path: AnyPath, places: list[list[int]], columns: dict[str, list]) -> None:
        there = self.done()
        if any(there[self._blocks(*place)].any() for place in places):
            logging.warning("%s holds blocks that another file holds too; it is passed over", path)
            return
        for row, (rank, level, index) in enumerate(places):
            node = self._kind(**{name: column[row] for name, column in columns.items()})
            self._trees[rank].add(node, index, level)

    def _require_same(self, path: AnyPath, there: dict[str, Any]) -> None:
        here = dataclasses.asdict(self._task)
        different = [
            f"{name} {there.get(name)!r} there, {here[name]!r} now"
            for name in here
            if there.get(name) != here[name]
        ]
        if different:
            raise ValueError(
                f"{path} holds a part of other statistics: {'; '.join(different)}; put back what "
                "has changed to go on, or use another --workdir"
            )

    def _nodes(self) -> Iterator[tuple[int, int, int, Moments | MomentumAverage]]:
        for rank, tree in enumerate(self._trees):
            for (level, index), node in tree.nodes.items():
                yield rank, level, index, node

    def _blocks(self, rank: int, level: int, index: int) -> slice:
        """Numbers of the blocks in a node."""
        ranks = self._task.ranks
        return slice((index << level) * ranks + rank, ((index + 1) << level) * ranks, ranks)


def _read(path: AnyPath) -> dict[str, Any] | None:
    """What a file holds; None if it is damaged."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
        task, places = json.loads(str(columns.pop("task"))), columns.pop("places").tolist()
    except Exception as error:
        # numpy raises many types for files that are not whole.
        logging.warning("%s is damaged (%s); its images are gone through again", path, error)
        return None
    columns = {name: list(c) if c.ndim > 1 else c.tolist() for name, c in columns.items()}
    return {"task": task, "places": places, "columns": columns}
