"""Host batches as a pure function of (seed, step), for any number of processes and threads.

A batch is a dictionary: `images` uint8 [B, H, W, 3], `labels` int32 [B], `index` int64 [B]. Cached
latents have `latents` [B, h, w, C] and perhaps `deviations` in place of the images.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from absl import flags
from grain import transforms as grain_transforms

from rae_jax.data.sources.base import Record, Source
from rae_jax.data.unreadable import PassingOver, counted

Batch = dict[str, np.ndarray]
Transform = grain_transforms.Map | grain_transforms.RandomMap


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loading:
    """How batches are prepared; none of it changes a batch.

    Attributes:
        num_threads: Threads that prepare one batch each, ahead of their use; 0 prepares batches
            when they are asked for.
        num_workers: Processes that prepare batches in turn, each with so many threads; 0 for none.
            They import the program that starts them, which must therefore hide its work behind
            `if __name__ == "__main__"`.
        max_unreadable: How many records may turn out to be unreadable. Each is reported and gives
            its place to the next one of the source that can be read.
    """

    num_threads: int = 2
    num_workers: int = 0
    max_unreadable: int = 0


_DEFAULT = Loading()


def batches(
    source: Source,
    *,
    seed: int,
    global_batch_size: int,
    transforms: Sequence[Transform] = (),
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    loading: Loading = _DEFAULT,
) -> Iterator[Batch]:
    """Endless training batches, from that of `start_step` on; every epoch in a new order.

    The global batch of a step is a function of `seed` and the step alone; a process gets its rows
    of it, in order. So a run goes on from its step, on any number of processes. Batches straddle
    epochs: no record is ever left out.

    Args:
        source: Labelled images.
        seed: Origin of orders and augmentations.
        global_batch_size: Rows over all processes.
        transforms: Applied to each record in turn.
        start_step: Step of the first batch.
        process_index: This process.
        process_count: Number of processes.
        loading: Who prepares the batches, and what happens to unreadable records.

    Yields:
        This process's rows: `images`, `labels`, `index`.

    Raises:
        UnreadableImageError: A record cannot be read, and that is one too many.
        ValueError: The source is empty or the batch does not divide over the processes.
    """
    if len(source) == 0:
        raise ValueError(f"{source!r} has no records to train on")
    local_batch_size = _local_batch_size(global_batch_size, process_count)
    limit = loading.max_unreadable
    records = PassingOver(source, limit) if limit else source
    # Shuffle first and cut to processes last: order and augmentation belong to a record's place
    # in the global stream. Cutting whole local batches, not records, keeps the rows of the global
    # batch in the same order for every number of processes.
    dataset = _prepared(grain.MapDataset.source(records).seed(seed).shuffle().repeat(), transforms)
    dataset = dataset.batch(local_batch_size, drop_remainder=True)[process_index::process_count]
    stream = iter(_started(dataset[start_step:], loading))
    return counted(stream, source, limit) if limit else stream


def evaluation_batches(
    source: Source,
    *,
    batch_size: int,
    transforms: Sequence[Transform] = (),
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
) -> Iterator[Batch]:
    """Every record once, in order; all batches have the same shape.

    The last batch is filled up with copies of the last record. `valid` bool [B] is false for
    these copies.

    Args:
        source: Labelled images.
        batch_size: Rows over all processes.
        transforms: Applied to each record in turn; none may be random.
        process_index: This process.
        process_count: Number of processes; each gets equally many batches.
        num_threads: As of `Loading`.

    Yields:
        This process's rows: `images`, `labels`, `index`, `valid`.

    Raises:
        ValueError: The source is empty, the batch does not divide over the processes, or a
            transform is random.
    """
    if len(source) == 0:
        raise ValueError(f"{source!r} has no records to go through")
    for transform in transforms:
        if isinstance(transform, grain_transforms.RandomMap):
            raise ValueError(f"{type(transform).__name__} is random; evaluation must not be")
    local_batch_size = _local_batch_size(batch_size, process_count)
    dataset = _prepared(grain.MapDataset.source(_Padded(source, batch_size)), transforms)
    dataset = dataset.batch(local_batch_size, drop_remainder=True)[process_index::process_count]
    return iter(_started(dataset, Loading(num_threads=num_threads)))


class _Padded:
    """A source extended to a multiple of `multiple` with copies of its last record."""

    def __init__(self, source: Source, multiple: int):
        self._source = source
        self._length = -(-len(source) // multiple) * multiple

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Record:
        last = len(self._source) - 1
        return {**self._source[min(index, last)], "valid": np.bool_(index <= last)}

    def __repr__(self) -> str:
        return f"{self._source!r} padded to {self._length}"


def _named(columns: Batch) -> Batch:
    """The batch with its columns in the plural, as they are called from here on."""
    names = {"image": "images", "label": "labels"}
    names |= {"latent": "latents", "deviation": "deviations"}
    return {names.get(name, name): column for name, column in columns.items()}


def _local_batch_size(global_batch_size: int, process_count: int) -> int:
    if global_batch_size < 1 or global_batch_size % process_count:
        raise ValueError(
            f"the global batch size must be a positive multiple of the number of processes, "
            f"{process_count}, got {global_batch_size}"
        )
    return global_batch_size // process_count


def _prepared(dataset: grain.MapDataset, transforms: Sequence[Transform]) -> grain.MapDataset:
    for transform in transforms:
        if isinstance(transform, grain_transforms.RandomMap):
            dataset = dataset.random_map(transform)
        else:
            dataset = dataset.map(transform)
    return dataset


def _started(dataset: grain.MapDataset, loading: Loading) -> grain.IterDataset:
    threads = loading.num_threads
    # One batch is one element: a buffer larger than the threads only fills memory.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
    started = dataset.map(_named).to_iter_dataset(options)
    if not loading.num_workers:
        return started
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain looks at its flags, which programs without absl leave.
    return started.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=loading.num_workers, per_worker_buffer_size=1)
    )
