"""Records that cannot be read: passed over alike everywhere, counted, too many an error."""

from collections.abc import Iterator

import numpy as np
from absl import logging

from rae_jax.data.decoding import UnreadableImageError
from rae_jax.data.sources.base import Record, Source

PASSED_OVER = "passed_over"
"""Column of batches: how many unreadable records stand before the one that took their place."""


class PassingOver:
    """A source in which the next readable record stands for one that cannot be read.

    What stands there is a function of the source alone, whoever reads it. After the last record
    comes the first.

    Args:
        source: The source.
        limit: So many unreadable records in a row are passed over.
    """

    def __init__(self, source: Source, limit: int):
        self._source = source
        self._limit = limit

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        for passed_over in range(self._limit):
            try:
                return self._marked(index, passed_over)
            except UnreadableImageError:
                continue
        return self._marked(index, self._limit)

    def _marked(self, index: int, passed_over: int) -> Record:
        record = self._source[(index + passed_over) % len(self._source)]
        return {**record, PASSED_OVER: np.int64(passed_over)}

    def __repr__(self) -> str:
        return f"{self._source!r} without what cannot be read"


def counted(
    stream: Iterator[dict[str, np.ndarray]], source: Source, limit: int
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of a stream over `PassingOver(source, limit)`, without their mark.

    Every unreadable record is reported once. It counts when its batch is taken, not when some
    thread has come upon it, so that the stream always ends at the same batch.

    Raises:
        UnreadableImageError: There are more than `limit` of them.
    """
    found: set[int] = set()
    for batch in stream:
        passed_over = batch.pop(PASSED_OVER)
        for last, count in zip(batch["index"], passed_over, strict=True):
            for back in range(count, 0, -1):
                number = int(last - back) % len(source)
                if number not in found:
                    found.add(number)
                    _report(source, number, len(found), limit)
        yield batch


def _report(source: Source, number: int, count: int, limit: int) -> None:
    try:
        source[number]
    except UnreadableImageError as error:
        if count > limit:
            raise UnreadableImageError(
                f"{error}; that is one more than the {limit} unreadable images that "
                "data.max_unreadable allows"
            ) from error
        logging.warning("%s; passed over, as %d of at most %d", error, count, limit)
