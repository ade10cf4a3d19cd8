"""Batches as a function of seed and step."""

import itertools

import numpy as np
import pytest

from rae_jax.data import pipeline, transforms
from rae_jax.data.sources.base import record


class Numbered:
    """Images of 4x4 pixels whose values tell their record and place."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        image = np.full((4, 4, 3), index, np.uint8)
        image[..., 1] = np.arange(4)
        return record(image, index % 3, index)

    def __repr__(self) -> str:
        return f"Numbered({self.length})"


AUGMENT = (transforms.RandomCrop(3, 4), transforms.RandomFlip())


def take(count: int, *, length: int = 22, **options) -> list[dict[str, np.ndarray]]:
    arguments = {"seed": 0, "global_batch_size": 8, "transforms": AUGMENT, **options}
    return list(itertools.islice(pipeline.batches(Numbered(length), **arguments), count))


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_batch_has_the_fixed_columns():
    batch = take(1)[0]
    assert {name: (column.shape, column.dtype) for name, column in batch.items()} == {
        "images": ((8, 3, 3, 3), np.dtype("uint8")),
        "labels": ((8,), np.dtype("int32")),
        "index": ((8,), np.dtype("int64")),
    }
    np.testing.assert_array_equal(batch["images"][:, 0, 0, 0], batch["index"])
    np.testing.assert_array_equal(batch["labels"], batch["index"] % 3)


def test_augmentation_varies_from_record_to_record():
    columns = np.concatenate([batch["images"][:, 0, :, 1] for batch in take(10)])
    # Two places to crop at, mirrored or not.
    assert len(np.unique(columns, axis=0)) == 4


@pytest.mark.parametrize("start_step", [1, 5, 17])
def test_stream_goes_on_from_any_step(start_step):
    assert_same(take(4, start_step=start_step), take(start_step + 4)[start_step:])


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 8])
def test_worker_processes_do_not_matter(num_workers):
    loading = pipeline.Loading(num_threads=1, num_workers=num_workers)
    assert_same(take(11, loading=loading), take(11))
    part = {"start_step": 5, "process_index": 1, "process_count": 2}
    assert_same(take(3, loading=loading, **part), take(3, **part))


@pytest.mark.parametrize(("process_count", "global_batch_size"), [(2, 8), (4, 8), (16, 32)])
@pytest.mark.parametrize("start_step", [0, 3])
def test_rows_of_all_processes_are_the_global_batch_in_order(
    process_count, global_batch_size, start_step
):
    size = {"global_batch_size": global_batch_size}
    parts = [
        take(5, process_index=index, process_count=process_count, start_step=start_step, **size)
        for index in range(process_count)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, take(start_step + 5, **size)[start_step:])


@pytest.mark.parametrize("num_threads", [0, 1, 8])
def test_threads_do_not_matter(num_threads):
    assert_same(take(12, loading=pipeline.Loading(num_threads=num_threads)), take(12))


def test_every_epoch_is_another_permutation():
    index = np.concatenate([batch["index"] for batch in take(11)]).reshape(4, 22)
    np.testing.assert_array_equal(np.sort(index, axis=1), np.tile(np.arange(22), (4, 1)))
    assert len(np.unique(index, axis=0)) == 4
    assert not (index == np.arange(22)).all(axis=1).any()


def test_seeds_give_other_streams():
    assert (take(1)[0]["index"] != take(1, seed=1)[0]["index"]).any()
    assert_same(take(2, seed=2**32 - 1), take(2, seed=2**32 - 1))


def test_batch_may_be_larger_than_the_source():
    index = take(1, length=3)[0]["index"]
    np.testing.assert_array_equal(np.bincount(index), [3, 3, 2])


def test_impossible_batches():
    with pytest.raises(ValueError, match=r"Numbered\(0\) has no records"):
        take(1, length=0)
    with pytest.raises(ValueError, match="multiple of the number of processes, 3, got 8"):
        take(1, process_count=3)


def evaluate(length: int, **options) -> list[dict[str, np.ndarray]]:
    arguments = {"batch_size": 4, **options}
    return list(pipeline.evaluation_batches(Numbered(length), **arguments))


@pytest.mark.parametrize("length", [1, 4, 10])
@pytest.mark.parametrize("num_threads", [0, 2])
def test_evaluation_goes_through_every_record_once_in_order(length, num_threads):
    batches = evaluate(length, num_threads=num_threads)
    assert all(batch["images"].shape == (4, 4, 4, 3) for batch in batches)
    valid = np.concatenate([batch["valid"] for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])
    np.testing.assert_array_equal(index[valid], np.arange(length))
    assert len(index) == -(-length // 4) * 4
    # What fills the last batch is a real image, so nothing downstream meets odd values.
    assert (index[~valid] == length - 1).all()


def test_evaluation_over_processes():
    parts = [evaluate(10, process_index=index, process_count=2) for index in range(2)]
    assert [len(part) for part in parts] == [3, 3]
    joined = [
        {name: np.concatenate([first[name], second[name]]) for name in first}
        for first, second in zip(*parts, strict=True)
    ]
    assert_same(joined, evaluate(10))


def test_evaluation_applies_transforms():
    batch = evaluate(4, transforms=(transforms.CenterCrop(2),))[0]
    assert batch["images"].shape == (4, 2, 2, 3)


def test_evaluation_must_not_be_random():
    with pytest.raises(ValueError, match="RandomFlip is random"):
        evaluate(4, transforms=(transforms.RandomFlip(),))
    with pytest.raises(ValueError, match=r"Numbered\(0\) has no records"):
        evaluate(0)
