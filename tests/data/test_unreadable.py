"""Images that cannot be read are passed over alike everywhere, counted, and too many an error."""

import itertools
import pathlib

import numpy as np
import pytest

from rae_jax.data import pipeline, transforms
from rae_jax.data.decoding import UnreadableImageError
from rae_jax.data.sources.base import record
from rae_jax.data.sources.image_folder import ImageFolder
from tests.data import photos

BAD = (3, 4, 21)


class Damaged:
    """22 images of which three cannot be read, the last one among them."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int):
        if index in BAD:
            raise UnreadableImageError(f"cannot read image {index}.png: cut off")
        return record(np.full((4, 4, 3), index, np.uint8), index % 3, index)

    def __repr__(self) -> str:
        return "Damaged()"


def take(count: int, *, limit: int = 3, num_threads: int = 2, **options):
    options = {
        "seed": 0,
        "global_batch_size": 8,
        "transforms": (transforms.RandomCrop(3, 4), transforms.RandomFlip()),
        "loading": pipeline.Loading(num_threads=num_threads, max_unreadable=limit),
        **options,
    }
    return list(itertools.islice(pipeline.batches(Damaged(), **options), count))


def assert_same(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys() == {"images", "labels", "index"}
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_the_next_readable_record_takes_the_place():
    replaced = {3: 5, 4: 5, 21: 0}
    intact = Damaged.__getitem__

    class Whole(Damaged):
        def __getitem__(self, index: int):
            return intact(self, replaced.get(index, index))

    expected = itertools.islice(
        pipeline.batches(
            Whole(),
            seed=0,
            global_batch_size=8,
            transforms=(transforms.RandomCrop(3, 4), transforms.RandomFlip()),
        ),
        11,
    )
    batches = take(11)
    assert_same(batches, list(expected))
    index = np.concatenate([batch["index"] for batch in batches])
    # Four epochs: all places are taken, and those after damaged ones more often.
    np.testing.assert_array_equal(
        np.bincount(index, minlength=22), [8, 4, 4, 0, 0, 12, *[4] * 15, 0]
    )


@pytest.mark.parametrize("num_threads", [0, 1, 8])
@pytest.mark.parametrize("start_step", [0, 4])
def test_whoever_reads_passes_over_the_same(num_threads, start_step):
    assert_same(
        take(5, num_threads=num_threads, start_step=start_step), take(start_step + 5)[start_step:]
    )


def test_processes_pass_over_the_same():
    parts = [take(6, process_index=index, process_count=4) for index in range(4)]
    for step, whole in enumerate(take(6)):
        for name in whole:
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, whole[name])


def test_each_is_reported_once_with_the_count(caplog):
    take(20)
    messages = [r.getMessage() for r in caplog.records if "passed over" in r.getMessage()]
    assert len(messages) == 3
    for count, message in enumerate(messages, 1):
        assert message.endswith(f"passed over, as {count} of at most 3")
    assert sorted(message.split(";")[0] for message in messages) == [
        f"cannot read image {number}.png: cut off" for number in (21, 3, 4)
    ]


@pytest.mark.parametrize("num_threads", [0, 1, 8])
def test_one_too_many_ends_the_stream_at_the_same_step(num_threads):
    stream = pipeline.batches(
        Damaged(),
        seed=0,
        global_batch_size=2,
        loading=pipeline.Loading(num_threads=num_threads, max_unreadable=2),
    )
    taken = 0
    with pytest.raises(UnreadableImageError, match=r"\.png: cut off; that is one more than the 2 "):
        for batch in stream:
            taken += len(batch["index"])
    order = [int(i) for i in _order(22)]
    # The stream ends with the batch that holds the third of the damaged ones.
    third = sorted(order.index(number) for number in BAD)
    assert taken == _last_allowed(third, order)


def _order(length: int) -> np.ndarray:
    """The order of the first epoch, from a source without damage."""

    class Whole(Damaged):
        def __getitem__(self, index: int):
            return record(np.zeros((1, 1, 3), np.uint8), 0, index)

    batch = next(pipeline.batches(Whole(), seed=0, global_batch_size=length))
    return batch["index"]


def _last_allowed(places: list[int], order: list[int]) -> int:
    """Records in the batches of two before the one in which a third record is found damaged."""
    found: set[int] = set()
    for place in places:
        # Before a record that takes a place, those between are known to be damaged too.
        number = order[place]
        found |= {number} | ({4} if number == 3 else set())
        if len(found) > 2:
            return place // 2 * 2
    raise AssertionError


def test_without_a_limit_the_first_ends_the_stream():
    with pytest.raises(UnreadableImageError) as caught:
        take(11, limit=0)
    assert str(caught.value) in {f"cannot read image {number}.png: cut off" for number in BAD}


def test_nothing_but_damage_ends_at_once(tmp_path: pathlib.Path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_text("no picture")
    stream = pipeline.batches(
        ImageFolder(tmp_path),
        seed=0,
        global_batch_size=1,
        loading=pipeline.Loading(max_unreadable=2),
    )
    with pytest.raises(
        UnreadableImageError, match=r"cannot read image .*\.png: no format that PIL"
    ):
        next(stream)


def test_a_file_that_has_gone_is_no_unreadable_image(tmp_path: pathlib.Path):
    photos.folder(tmp_path / "images")
    source = ImageFolder(tmp_path / "images")
    stream = pipeline.batches(
        source, seed=0, global_batch_size=1, loading=pipeline.Loading(max_unreadable=9)
    )
    for index in range(len(source)):
        pathlib.Path(source.path(index)).unlink()
    with pytest.raises(FileNotFoundError, match="no image file "):
        next(stream)


def test_evaluation_passes_over_nothing():
    with pytest.raises(UnreadableImageError, match=r"cannot read image 3\.png"):
        list(pipeline.evaluation_batches(Damaged(), batch_size=8))
