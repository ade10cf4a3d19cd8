"""Pickles that no honest program writes: nothing of them runs, and nothing of them breaks."""

import collections
import os
import pickle
import pickletools
import random
import shutil
import zipfile

import numpy as np
import pytest

from rae_jax.weights.torch_files import read_torch
from rae_jax.weights.torch_pickle import ORDERED_DICT, Global, PickleError, read
from tests.weights.test_torch_files import FILES

ADMITTED = {entry.name: entry for entry in (ORDERED_DICT, Global("torch.FloatStorage"))}


def load(content):
    return read(content, ADMITTED, lambda identifier: np.zeros(2), np.ndarray)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_of_every_protocol(protocol):
    shared = [1, 2]
    value = {
        "a": [1, -1, 300, 70000, 2**40, -(2**90), 0.5, True, False, None, "ä" * 300],
        3: shared,
    }
    value["b"] = ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), shared, {})
    assert load(pickle.dumps(value, protocol)) == value


def test_ordered_dictionaries_in_both_forms():
    ordered = collections.OrderedDict(b=1, a=2)
    assert list(load(pickle.dumps(ordered, 2)).items()) == [("b", 1), ("a", 2)]
    without_pairs = b"\x80\x02ccollections\nOrderedDict\n](K\x01e\x85R."
    assert load(b"\x80\x02ccollections\nOrderedDict\n](](X\x01\x00\x00\x00aK\x01ee\x85R.") == {
        "a": 1
    }
    with pytest.raises(PickleError, match="not made of pairs"):
        load(without_pairs)


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {mark}",), "posix.system"),
        (eval, ("open({mark!r}, 'w')",), "__builtin__.eval"),
        (getattr, ((), "count"), "__builtin__.getattr"),
        (shutil.rmtree, ("{mark}",), "shutil.rmtree"),
        (__import__, ("this",), "__builtin__.__import__"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_no_function_is_called(tmp_path, function, arguments, name, protocol):
    mark = tmp_path / "mark"
    filled = tuple(a.format(mark=str(mark)) if isinstance(a, str) else a for a in arguments)
    content = pickle.dumps({"a": Runs(function, *filled)}, protocol)
    name = name.replace("__builtin__", "builtins") if protocol == 4 else name
    with pytest.raises(PickleError, match=f"asks for '{name}', which .* is refused"):
        load(content)
    assert not mark.exists()


class Plain:
    def __init__(self):
        self.a = 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Plain(), 2), "asks for 'copy_reg._reconstructor'|asks for 'tests.weights"),
        (pickle.dumps({1, 2}, 4), "instruction EMPTY_SET is not admitted"),
        (pickle.dumps(b"abc", 4), "instruction SHORT_BINBYTES is not admitted"),
        (pickle.dumps(bytearray(b"a"), 5), "instruction BYTEARRAY8 is not admitted"),
        (b"(i__main__\nA\n.", "instruction INST is not admitted"),
        (b"(cos\nsystem\no.", "asks for 'os.system'"),
        (b"\x82\x01.", "instruction EXT1 is not admitted"),
        (b"P1\n.", "instruction PERSID is not admitted"),
        (b"K\x01K\x01R.", "calls int, which is refused"),
        (b"ccollections\nOrderedDict\nK\x01R.", "calls collections.OrderedDict, which is refused"),
        (b"ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage, which is refused"),
        (b"ctorch\nFloatStorage\n.", "holds torch.FloatStorage by itself"),
        (b"](ctorch\nFloatStorage\ne.", "holds torch.FloatStorage by itself"),
        (b"K\x01}b.", "sets the state of a int"),
        (b"ccollections\nOrderedDict\n}b.", "sets the state of a Global"),
        (b"}K\x01b.", "sets the state of a dict"),
        (b"])K\x01a.", "appended to something else than a list"),
        (b"})K\x01s.", "only text and numbers are keys, got tuple"),
        (b"}]K\x01s.", "only text and numbers are keys, got list"),
        (b"]K\x01K\x01s.", "only text and numbers are keys"),
        (b".", "pickle is damaged"),
        (b"", "pickle is damaged"),
        (b"K\x01", "pickle is damaged"),
        (b"h\x05.", "pickle is damaged"),
        (b"q\x05.", "pickle is damaged"),
        (b"t.", "pickle is damaged"),
        (b"\x85.", "pickle is damaged"),
        (b"}(K\x01u.", "pickle is damaged"),
        (b"X\xff\xff\xff\x7fabc.", "pickle is damaged"),
        (b"\x8b\xff\xff\xff\x7fabc.", "pickle is damaged"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.", "pickle is damaged"),
        (b"]q\x00h\x00a.", "a container holds itself"),
        (b"]q\x00}X\x01\x00\x00\x00ah\x00sa.", "a container holds itself"),
        (b"\xff.", "pickle is damaged"),
    ],
)
def test_what_is_not_admitted(content, message):
    with pytest.raises(PickleError, match=message):
        load(content)


def test_a_memo_of_any_index_costs_nothing():
    assert load(b"\x80\x02]r\xff\xff\xff\x7fj\xff\xff\xff\x7f.") == []


def test_depth_has_a_limit_and_hits_no_recursion():
    assert load(b"]" * 60 + b"a" * 59 + b".")
    for depth in (100, 20_000):
        with pytest.raises(PickleError, match=f"nested .* deep|nested {depth}"):
            load(b"]" * depth + b"a" * (depth - 1) + b".")
        with pytest.raises(PickleError, match="nested .* deep"):
            load(b")" + b"\x85" * depth + b".")


def test_few_bytes_that_stand_for_many_values_are_refused():
    doubled = b"]" + b"".join(b"q%c](h%ch%ce" % (i, i, i) for i in range(40)) + b"."
    with pytest.raises(PickleError, match="values in all"):
        load(doubled)


def test_no_change_of_an_honest_pickle_does_harm():
    with zipfile.ZipFile(FILES / "training.pt") as archive:
        content = bytearray(archive.read("training/data.pkl"))
    rng = random.Random(0)
    read_torch(FILES / "training.pt")
    for _ in range(3000):
        changed = content.copy()
        for _ in range(rng.choice([1, 1, 2, 8])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        cut = rng.choice([len(changed), rng.randrange(len(changed))])
        try:
            load(bytes(changed[:cut]))
        except PickleError:
            pass


def test_no_sequence_of_instructions_does_harm():
    codes = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
    rng = random.Random(1)
    for _ in range(5000):
        parts = rng.choices(codes, k=rng.randrange(1, 30))
        content = b"".join(part + rng.choice([b"", b"\x00", b"\x01\x00\x00\x00"]) for part in parts)
        try:
            load(content + b".")
        except PickleError:
            pass
