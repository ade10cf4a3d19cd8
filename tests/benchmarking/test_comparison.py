"""Sides take turns, and rows say what the rounds said."""

import pytest

from rae_jax.benchmarking import comparison
from rae_jax.benchmarking.presets import Settings

SETTINGS = Settings(
    part="encode", preset="tiny", batch_size=4, dtype="float32", points=4, threads=1
)


class Told:
    """A side that notes when it runs."""

    def __init__(self, name, log, seconds, answer, facts=None, products=None):
        self.name, self.log, self.seconds, self.answer = name, log, iter(seconds), answer
        self.facts, self.limit = {"version": name, **(facts or {})}, products

    def first(self):
        self.log.append(f"{self.name} warms up")
        return self.answer

    def run(self):
        self.log.append(self.name)
        return next(self.seconds)

    def products(self):
        return self.limit

    def memory(self):
        return 5e6

    def costs(self, folder):
        return []


@pytest.fixture
def measured():
    log = []
    facts = {"operations": 8e9, "compile_seconds": 1.5}
    ours = Told("ours", log, (2.0, 1.0, 9.0), [1.0, -4.0], facts, products=0.5)
    theirs = Told("theirs", log, (4.0, 8.0, 6.0), [1.0, -3.0])
    return log, comparison.take_turns([ours, theirs], 3)


def test_sides_take_turns_after_warming_up(measured):
    log, _ = measured
    assert log == ["ours warms up", "theirs warms up", *["ours", "theirs"] * 3]


def test_rows_compare_medians(measured):
    ours, theirs = comparison.rows(SETTINGS, measured[1])
    assert (ours["seconds"], theirs["seconds"]) == (2.0, 6.0)
    assert (ours["ours is faster"], theirs["ours is faster"]) == (None, 3.0)
    assert (ours["GFLOP/s"], ours["images/s"]) == (4.0, 2.0)
    # The time of the products alone over that of the part.
    assert (ours["of product rate"], theirs["of product rate"]) == (0.25, 0.5 / 6)
    assert (ours["compile s"], theirs["compile s"]) == (1.5, None)
    assert ours["quartiles"] == "1.5 to 5.5"
    assert theirs["rounds"] == [4.0, 8.0, 6.0]


def test_answers_are_compared(measured):
    ours, theirs = comparison.rows(SETTINGS, measured[1])
    assert (ours["difference"], theirs["difference"]) == (None, 0.25)


def test_answers_of_different_sizes_are_told():
    sides = [Told(name, [], (1.0,), [1.0] * size) for name, size in (("a", 2), ("b", 3))]
    with pytest.raises(ValueError, match="must have one size, got 2 and 3 numbers"):
        comparison.take_turns(sides, 1)


def test_the_first_round_is_always_played():
    side = Told("ours", [], (1.0, 2.0), None)
    (measured,) = comparison.take_turns([side], 2, limit=0.0)
    assert measured.seconds == (1.0,)
    assert measured.difference is None
