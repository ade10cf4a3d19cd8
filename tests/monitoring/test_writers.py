import json
import math
import sys
import types

import numpy as np
import pytest
from PIL import Image

from rae_jax.monitoring import writers
from rae_jax.monitoring.curves import read_metrics

PICTURE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_json_lines(tmp_path):
    writer = writers.JsonLinesWriter(tmp_path / "run")
    writer.scalars(10, {"loss": 0.5, "speed": 3.0})
    assert _lines(tmp_path / "run") == [{"step": 10, "loss": 0.5, "speed": 3.0}]
    writer.images(10, "preview", PICTURE)
    writer.close()
    with Image.open(tmp_path / "run" / "images" / "preview_00000010.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), PICTURE)


def test_values_without_a_json_number(tmp_path):
    writer = writers.JsonLinesWriter(tmp_path)
    writer.scalars(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    writer.close()

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse)["a"] == "nan"
    curves = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(curves["a"][1][0])
    assert curves["b"][1][0] == math.inf
    assert curves["c"][1][0] == -math.inf


def test_resuming_drops_the_steps_that_will_be_repeated(tmp_path):
    writer = writers.JsonLinesWriter(tmp_path)
    for step in (10, 20, 30):
        writer.scalars(step, {"loss": float(step)})
    writer.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "lo')  # Cut off by a kill.
    writer = writers.JsonLinesWriter(tmp_path, resume_step=20)
    writer.scalars(30, {"loss": -30.0})
    writer.close()
    assert [(line["step"], line["loss"]) for line in _lines(tmp_path)] == [
        (10, 10.0),
        (20, 20.0),
        (30, -30.0),
    ]
    writers.JsonLinesWriter(tmp_path).close()
    assert _lines(tmp_path) == []


def test_tensorboard(tmp_path):
    (writer,) = writers.make_writers(["tensorboard"], tmp_path)
    writer.scalars(3, {"loss": 0.5})
    writer.images(3, "preview", PICTURE)
    writer.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss" in content
    assert b"preview" in content


class _Run:
    def __init__(self):
        self.logged = []
        self.finished = False

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished = True


def test_wandb_keeps_its_run_over_restarts(tmp_path, monkeypatch):
    calls = []
    run = _Run()

    def init(**settings):
        calls.append(settings)
        return run

    module = types.SimpleNamespace(init=init, Image=lambda image: ("image", image.shape))
    monkeypatch.setitem(sys.modules, "wandb", module)
    for _ in range(2):
        (writer,) = writers.make_writers(["wandb"], tmp_path)
        writer.scalars(3, {"loss": 0.5})
        writer.images(3, "preview", PICTURE)
        writer.close()
    assert calls[0] == calls[1]
    assert calls[0]["resume"] == "allow"
    assert calls[0]["name"] == tmp_path.name
    assert run.logged[:2] == [
        {"step": 3, "loss": 0.5},
        {"step": 3, "preview": ("image", (4, 5, 3))},
    ]
    assert run.finished


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install wandb"):
        writers.make_writers(["wandb"], tmp_path)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\['jsonl', 'tensorboard', 'wandb'\], got \['tb'\]"):
        writers.make_writers(["jsonl", "tb"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "is_main_process", lambda: False)
    assert writers.make_writers(["jsonl"], tmp_path) == []
    assert not list(tmp_path.iterdir())
