import re

import numpy as np
import pytest

from rae_jax.weights.checkpoints import flat, select, weight_sets
from rae_jax.weights.errors import WeightFileError
from rae_jax.weights.torch_files import read_torch
from tests.weights.test_torch_files import FILES

A, B = np.zeros(2, np.float32), np.ones(3, np.float32)
BARE = {"x.weight": A, "x.bias": B}
OPTIMIZER = {"state": {0: {"step": A, "exp_avg": B}}, "param_groups": [{"lr": 1e-3}]}


def with_prefix(prefix):
    return {prefix + key: value for key, value in BARE.items()}


@pytest.mark.parametrize(
    "content",
    [
        BARE,
        with_prefix("module."),
        with_prefix("_orig_mod."),
        with_prefix("module._orig_mod."),
        with_prefix("_orig_mod.module."),
        with_prefix("module.module._orig_mod."),
        {"x._orig_mod.weight": A, "x.bias": B},
        {"state_dict": with_prefix("module.")},
        {"model": {"state_dict": BARE}, "optimizer": OPTIMIZER, "epoch": 3},
        {"model": BARE, "opt": OPTIMIZER},
    ],
)
def test_the_only_weights_are_those_of_the_optimiser(content):
    sets = weight_sets(content)
    assert set(sets) == {"raw"}
    assert list(sets["raw"]) == list(BARE)
    assert sets["raw"]["x.bias"] is B
    assert list(select(content, "raw")) == list(BARE)


def test_both_sets_of_a_training_checkpoint():
    ema = {"module.x.weight": B, "module.x.bias": A}
    content = {"model": with_prefix("_orig_mod."), "ema": ema, "opt": OPTIMIZER, "step": 3}
    sets = weight_sets(content)
    assert list(sets) == ["ema", "raw"]
    assert sets["ema"]["x.weight"] is B and sets["raw"]["x.weight"] is A
    assert select(content)["x.weight"] is B
    assert select(content, "raw")["x.weight"] is A
    assert select({"ema": {"module": BARE}, "model": BARE})["x.bias"] is B


def test_a_bare_file_is_its_own_average():
    assert select(BARE, "ema")["x.weight"] is A


def test_any_dictionary_of_tensors_by_its_path():
    content = {"model": BARE, "generator": {"best": with_prefix("module.")}}
    assert list(select(content, "generator.best")) == list(BARE)


@pytest.mark.parametrize(
    ("content", "which", "message"),
    [
        (
            {"model": BARE, "opt": OPTIMIZER},
            "ema",
            "no weights 'ema'; there are: model (2 tensors), o",
        ),
        ({"ema": BARE, "step": 1}, "raw", "no weights 'raw'; there are: ema (2 tensors), step"),
        ({"generator": BARE, "x": 1}, "ema", "no weights of a model; there are: generator (2 t"),
        ({"model": BARE, "state_dict": BARE}, "raw", "several weights 'raw'; there are: model (2"),
        ({"a": 1, "b": "x"}, "ema", "no weights of a model; there are: a, b"),
        ({}, "ema", "no weights of a model; there are: nothing"),
        ([A], "ema", "no weights of a model; it holds a list"),
        (A, "ema", "no weights of a model; it holds a ndarray"),
        ({str(i): {"a": 1} for i in range(20)}, "ema", "there are: nothing"),
        ({str(i): 1 for i in range(20)}, "ema", "10, 11 and 8 more"),
    ],
)
def test_what_is_there_is_told(content, which, message):
    with pytest.raises(WeightFileError, match=re.escape(message)):
        select(content, which)


def test_names_that_become_one_are_refused():
    content = {"module._orig_mod.x": A, "module.x": B}
    with pytest.raises(WeightFileError, match=r"several of its entries are called \['x'\]"):
        select(content)


def test_flat_files_hold_nothing_else():
    assert flat(BARE) is BARE
    for content in ({**BARE, "epoch": 1}, {"model": BARE}, [A], {}, {1: A}):
        with pytest.raises(WeightFileError, match="must hold tensors by key and nothing else"):
            flat(content)


def test_a_file_of_pytorch():
    sets = weight_sets(read_torch(FILES / "training.pt"))
    assert {name: list(tensors) for name, tensors in sets.items()} == {
        "ema": ["weight", "bias"],
        "raw": ["weight", "bias"],
    }
    np.testing.assert_array_equal(sets["ema"]["bias"], sets["raw"]["bias"] + 1)
