"""Sides in this process and in processes of their own."""

import os
import time
import types

import numpy as np
import pytest

from rae_jax.benchmarking import benchmark, parts, sides
from rae_jax.benchmarking.benchmark import Request
from rae_jax.benchmarking.presets import COMPARED, PARTS, PRESETS

SIDE = """
import os
import numpy as np
from rae_jax.benchmarking.sides import Prepared

VERSION = "test 1"

def slow(settings):
    print("libraries print things")
    memory = []

    def run():
        memory.append(np.ones(5_000_000))
        return np.arange(settings.batch_size) + len(os.sched_getaffinity(0)) + sum(begun)

    return Prepared(run, np.asarray, {"compile_seconds": 2.0})

def refuses(settings):
    raise ValueError("this is\\n not possible")

def breaks(settings):
    raise KeyError("inside")

PARTS = {"encode": slow, "decode": refuses, "denoise": breaks, "sample": lambda _: os._exit(7)}
batches = None
begun = []

def begin():
    begun.append(10)
"""


@pytest.fixture(scope="module")
def side(tmp_path_factory):
    path = tmp_path_factory.mktemp("sides") / "side.py"
    path.write_text(SIDE)
    return str(path)


def settings(part, **options):
    return Request(parts=(part,), preset="tiny", threads=1, **options).settings(part)


def test_a_side_in_another_process(side):
    other = sides.Elsewhere(side, settings("encode", batch_size=3))
    try:
        assert other.facts == {"version": "test 1", "compile_seconds": 2.0}
        # Of one processor, as it is asked for, and after `begin`.
        assert other.first() == [11, 12, 13]
        assert 0 < other.run() < 10
        assert (other.products(), other.costs("nowhere")) == (None, [])
        # Two runs of 40 MB.
        assert 75e6 < other.memory() < 150e6
    finally:
        other.close()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("decode", "^this is not possible$"),
        ("denoise", r"side\.py: KeyError: 'inside'$"),
        ("sample", r"side\.py ended with status 7$"),
        ("evaluate", "side_side has no part evaluate$"),
    ],
)
def test_what_goes_wrong_elsewhere_is_told(side, part, message):
    with pytest.raises(ValueError, match=message):
        sides.Elsewhere(side, settings(part))


def test_sides_tell_their_parts(side):
    assert sides.offered([side]) == {side: {"encode", "decode", "denoise", "sample", "data"}}


def test_a_side_that_cannot_be_loaded_is_told(tmp_path):
    (tmp_path / "side.py").write_text("import a_library_that_is_not_there")
    with pytest.raises(ValueError, match=r"side\.py cannot be loaded: No module named 'a_libr"):
        sides.offered([str(tmp_path / "side.py")])
    with pytest.raises(FileNotFoundError, match="no file absent.py"):
        sides.load("absent.py")


def test_one_part_that_fails_ends_no_other(side, monkeypatch):
    monkeypatch.setattr(benchmark, "OURS", side)
    request = Request(parts=("decode", "encode"), preset="tiny", rounds=1, threads=1)
    (first, error), (second, tables) = benchmark.measure(request)
    assert (first, second) == ("decode", "encode")
    assert isinstance(error, ValueError)
    assert [row["side"] for row in tables["parts"]] == ["test 1"]


def test_a_peer_without_the_parts_is_told(side):
    with pytest.raises(ValueError, match="has the parts data, decode, denoise, encode, sample, no"):
        list(benchmark.measure(Request(parts=("compile",), peers=(side,))))


def test_ours_computes(tmp_path):
    """The lightest part; the others are in test_peers.py."""
    ours = sides.Here(parts, settings("encode", batch_size=1))
    answer = np.asarray(ours.first())
    assert np.isfinite(answer).all()
    assert answer.std() > 0.1
    assert ours.facts["operations"] > 1e6
    assert ours.facts["compile_seconds"] > 0
    assert ours.run() > 0
    products = ours.products()
    assert products is not None
    assert products > 0
    rows = ours.costs(str(tmp_path))
    assert len(rows) == 3
    assert rows[0]["share"] >= rows[1]["share"] > 0


def test_a_turn_warms_up_before_it_is_timed(monkeypatch):
    runs = []
    # The first run finds its memory gone.
    prepared = sides.Prepared(lambda: runs.append(time.sleep(0.0 if runs else 0.2)))
    module = types.ModuleType("side")
    vars(module).update(VERSION="1", PARTS={"encode": lambda settings: prepared})
    side = sides.Here(module, settings("encode"))
    assert side.run() < 0.2
    assert len(runs) == 2


def test_every_preset_has_every_part():
    assert set(parts.PARTS) == set(COMPARED)
    for name, preset in PRESETS.items():
        assert set(preset.batch_sizes) == set(PARTS), name
        grid, side = preset.grid, preset.decoder.patch_size
        assert grid * side == preset.image_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ()}, "name what to measure, or pass --all: encode, decode"),
        ({"parts": ("encod",)}, "unknown part 'encod': did you mean 'encode'?"),
        ({"preset": "gpus"}, "unknown preset 'gpus': did you mean 'gpu'?"),
        ({"dtype": "float16"}, "unknown dtype 'float16'"),
        ({"rounds": 0}, "--rounds must be at least 1, got 0"),
        ({"points": 1}, "--points must be at least 2"),
    ],
)
def test_requests_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        Request(**{"parts": ("encode",), **options})


def test_all_processors_are_used_unless_told():
    request = Request(parts=("encode",))
    assert request.settings("encode").threads == len(os.sched_getaffinity(0))
