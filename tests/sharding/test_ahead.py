"""Batches that are taken and placed before they are asked for."""

import itertools
import threading
import time

import jax
import numpy as np
import pytest

from rae_jax.sharding.ahead import placed_ahead
from rae_jax.sharding.mesh import make_mesh
from rae_jax.sharding.processes import global_batch


def eventually(condition) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def alive() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("placed_ahead")]


def test_batches_come_in_order_and_end():
    assert list(placed_ahead(range(7), lambda n: n * n)) == [n * n for n in range(7)]
    assert list(placed_ahead([], str)) == []
    assert alive() == []


@pytest.mark.parametrize("count", [1, 3])
def test_so_many_are_ready_before_they_are_asked_for(count):
    placed = []
    stream = placed_ahead(itertools.count(), lambda n: placed.append(n) or n, count=count)
    assert placed == []
    assert next(stream) == 0
    # While the first one is worked on, the next ones are placed, and no more.
    assert eventually(lambda: len(placed) == 1 + count)
    time.sleep(0.05)
    assert placed == list(range(1 + count))
    assert next(stream) == 1
    assert eventually(lambda: placed == list(range(2 + count)))
    stream.close()
    assert alive() == []


def test_an_error_comes_out_where_its_batch_would_have():
    def batches():
        yield 0
        yield 1
        raise ValueError("cannot read image 2")

    stream = placed_ahead(batches(), str)
    assert [next(stream), next(stream)] == ["0", "1"]
    with pytest.raises(ValueError, match="cannot read image 2"):
        next(stream)
    assert alive() == []


def test_an_error_of_placing_comes_out_too():
    stream = placed_ahead([np.zeros(8), np.zeros(3)], lambda x: x.reshape(2, 4))
    assert next(stream).shape == (2, 4)
    with pytest.raises(ValueError, match="cannot reshape"):
        next(stream)


def test_batches_lie_on_the_mesh():
    mesh = make_mesh()
    host = [{"images": np.full((8, 2), n, np.uint8)} for n in range(3)]
    for n, batch in enumerate(placed_ahead(host, lambda b: global_batch(mesh, b))):
        assert isinstance(batch["images"], jax.Array)
        assert len(batch["images"].sharding.device_set) == 8
        np.testing.assert_array_equal(batch["images"], host[n]["images"])
