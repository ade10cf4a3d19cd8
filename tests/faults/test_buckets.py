"""Work folders in a bucket: killed in the midst of saves, they end as local ones do."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from rae_jax.porting.inspection import inspect
from tests.object_store import ObjectStore, Refused
from tests.project import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

_IGNORED = re.compile(r"per_second|flop|utilization")


def start(base: str, result: pathlib.Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.bucket_run", base, str(result)],
        cwd=result.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen) -> str:
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def killed_at(bucket: ObjectStore, name: str, base: str, result: pathlib.Path) -> None:
    """Starts a run and kills it when it is about to write an object of that name."""
    process = start(base, result)

    def strike(written: str) -> None:
        if re.search(name, written):
            process.kill()
            raise Refused(503)

    bucket.written = strike
    try:
        said, _ = process.communicate()
    finally:
        bucket.written = lambda written: None
    assert process.returncode == -9, said


def metrics(text: str) -> dict[int, dict[str, float]]:
    lines = map(json.loads, text.splitlines())
    return {
        line["step"]: {name: v for name, v in line.items() if not _IGNORED.search(name)}
        for line in lines
    }


def test_killed_runs_go_on_and_end_as_local_ones(bucket, tmp_path):
    local = start(str(tmp_path / "local"), tmp_path / "local.npz")
    base, folder = "gs://test/run", "test/run"
    result = tmp_path / "bucket.npz"
    # In the very first save.
    killed_at(bucket, "stage1/checkpoints/2/state/.*manifest", base, result)
    assert bucket.names(f"{folder}/stage1/checkpoints/2/")
    assert bucket.names(f"{folder}/stage1/checkpoints/2/commit") == []
    finished(local)
    # In the last save, of which nothing but the mark of completeness is lacking.
    killed_at(bucket, "stage2/checkpoints/4/commit_success.txt", base, result)
    assert bucket.names(f"{folder}/stage2/checkpoints/2/commit_success.txt")
    assert bucket.names(f"{folder}/stage2/checkpoints/4/state/commit_success.txt")
    said = finished(start(base, result))
    assert "going on after step 2" in said
    with np.load(tmp_path / "local.npz") as expected, np.load(result) as found:
        assert sorted(expected) == sorted(found)
        for name in expected:
            assert expected[name].tobytes() == found[name].tobytes(), name
    local_lines = metrics((tmp_path / "local" / "stage2" / "metrics.jsonl").read_text())
    lines = metrics(bucket.read(f"{folder}/stage2/metrics.jsonl").decode())
    # Lines of the last seconds before a kill may be lost.
    assert {3, 4} <= lines.keys() <= {1, 2, 3, 4}
    assert lines == {step: local_lines[step] for step in lines}
    assert not (tmp_path / "gs:").exists()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["local"]
    shown: list[str] = []
    inspect(f"{base}/stage2", statistics=False, say=shown.append)
    assert shown[0] == "work folder of a stage2 run"
    assert shown[1].startswith("checkpoint of step 4")
