"""What the inspection shows of every kind of file and folder."""

import re
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from rae_jax.porting.inspection import inspect
from rae_jax.weights.errors import WeightFileError
from rae_jax.weights.torch_files import write_torch
from tests import pipeline

TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.full(4, 2).astype(ml_dtypes.bfloat16),
    "count": np.asarray(7, np.int64),
}


def shown(source, statistics=False):
    lines: list[str] = []
    inspect(str(source), statistics=statistics, say=lines.append)
    return lines


def cells(line):
    return re.split(r"  +", line.strip())


def table(lines):
    start = next(i for i, line in enumerate(lines) if line.startswith("key"))
    return {cells(line)[0]: cells(line)[1:] for line in lines[start + 1 : -1]}


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "folder"])
def test_files_of_tensors(tmp_path, name):
    if name == "model.pt":
        write_torch(tmp_path / name, TENSORS)
    else:
        path = tmp_path / "model.safetensors"
        save_file(TENSORS, path)
    lines = shown(tmp_path if name == "folder" else tmp_path / name)
    assert cells(lines[0]) == ["key", "shape", "dtype", "size"]
    assert table(lines) == {
        "a.weight": ["(2, 3)", "float32", "24 B"],
        "b": ["(4,)", "bfloat16", "8 B"],
        "count": ["()", "int64", "8 B"],
    }
    assert lines[-1] == "3 arrays, 11 elements, 40 B"


def test_values(tmp_path):
    write_torch(tmp_path / "model.pt", TENSORS | {"empty": np.zeros((0, 2), np.float32)})
    lines = shown(tmp_path / "model.pt", statistics=True)
    assert cells(lines[0])[-3:] == ["min", "max", "mean"]
    values = table(lines)
    assert values["a.weight"][-3:] == ["0", "5", "2.5"]
    assert values["b"][-3:] == ["2", "2", "2"]
    assert values["empty"] == ["(0, 2)", "float32", "0 B"]


def test_training_checkpoints_with_plain_values(tmp_path):
    content = {
        "model": TENSORS,
        "opt": {"state": {0: {"exp_avg": np.zeros(2, np.float32)}}, "groups": [{"lr": 1e-3}]},
        "epoch": 3,
        "note": "x" * 100,
        "list": [np.zeros(1, np.int8)],
    }
    write_torch(tmp_path / "model.pt", content)
    values = table(shown(tmp_path / "model.pt"))
    assert list(values) == [
        *(f"model.{key}" for key in TENSORS),
        *("opt.state.0.exp_avg", "opt.groups", "epoch", "note", "list.0"),
    ]
    assert values["epoch"] == ["3"]
    assert values["opt.groups"] == ["[{'lr': 0.001}]"]
    assert len(values["note"][0]) == 60


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", mean=np.ones((2, 2)), encoder="abc")
    values = table(shown(tmp_path / "a.npz", statistics=True))
    assert values["mean"] == ["(2, 2)", "float64", "32 B", "1", "1", "1"]
    assert values["encoder"] == ["'abc'"]
    np.savez(tmp_path / "b.npz", a=np.array([{}], dtype=object))
    (tmp_path / "c.npz").write_bytes(b"PK")
    for name in ("b", "c"):
        with pytest.raises(WeightFileError, match=f"{name}.npz is no complete npz of plain arrays"):
            shown(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("inside", ["", "checkpoints", f"checkpoints/{pipeline.STEPS}"])
def test_runs_and_their_checkpoints(runs, inside):
    lines = shown(runs / "stage1" / inside, statistics=True)
    first, *rest = lines if inside else lines[1:]
    assert inside or lines[0] == "work folder of a stage1 run"
    assert first.startswith(f"checkpoint of step {pipeline.STEPS}: {{'kind': 'stage1'")
    values = table(rest)
    assert values["ema.decoder.class_token"][:3] == ["(16,)", "float32", "64 B"]
    low, high, mean = map(float, values["params.decoder.prediction.kernel"][3:])
    assert low < mean < high
    assert values["step"][3:] == ["4", "4", "4"]


def test_a_checkpoint_of_an_older_step(runs):
    first = shown(runs / "stage1" / "checkpoints" / str(pipeline.STEPS // 2))[0]
    assert first.startswith(f"checkpoint of step {pipeline.STEPS // 2}: ")


def test_what_is_not_there_or_damaged_is_told(runs, tmp_path):
    for path, message in (
        (tmp_path / "absent", "no file or folder at"),
        (tmp_path, "holds neither weights, nor checkpoints, nor the config.json of a run"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            shown(path)
    (tmp_path / "model.txt").write_text("text")
    with pytest.raises(WeightFileError, match="model.txt is not a complete safetensors file"):
        shown(tmp_path / "model.txt")
    shutil.copytree(runs / "stage1", tmp_path / "run")
    step = tmp_path / "run" / "checkpoints" / str(pipeline.STEPS)
    for file in (step / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(ValueError, match=f"checkpoint .*{pipeline.STEPS} cannot be read"):
        shown(tmp_path / "run", statistics=True)
