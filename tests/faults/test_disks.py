import functools
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import pytest

from tests.faults import small_disk
from tests.faults.starts import Run, unbroken
from tests.project import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def in_own_mounts(*script: str) -> subprocess.CompletedProcess:
    """Runs a shell script, then Python with arguments, where mounts are seen by nobody else."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--mount", "sh", "-ec", script[0], sys.executable, *script[1:]]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


def can_mount(folder: pathlib.Path) -> bool:
    return shutil.which("unshare") is not None and (
        in_own_mounts(f"mount -t tmpfs tmpfs '{folder}'").returncode == 0
    )


@pytest.fixture
def disk(tmp_path):
    """A folder that a disk can be mounted at."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not can_mount(folder):
        pytest.skip("mounting is not allowed here, not even in a namespace of its own")
    return folder


def test_a_full_disk_ends_the_run_at_once_and_costs_nothing_that_is_saved(disk, tmp_path):
    """Really full: a file system of a few megabytes in memory."""
    done = in_own_mounts(
        f'mount -t tmpfs -o size={small_disk.SIZE} tmpfs \'{disk}\'; exec "$0" "$@"',
        *("-m", "tests.faults.small_disk", str(disk)),
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["status"] == 2, told["log"]
    (error,) = [line for line in told["log"].splitlines() if line.startswith("error: ")]
    assert "No space left on device" in error
    # Not long after the disk was full, and with a checkpoint that is whole.
    assert told["saved"] and told["told"][-1] <= told["full_after"] + 6
    assert told["start"] == told["saved"][-1:]
    fingerprint, metrics = unbroken("stage1", tmp_path)
    assert (told["fingerprint"], told["metrics"]) == (fingerprint, metrics)


def test_a_disk_that_may_not_be_written_is_told_before_anything_is_loaded(disk):
    done = in_own_mounts(
        f'mount -t tmpfs -o ro tmpfs \'{disk}\'; exec "$0" "$@"',
        *("tools/train_stage1.py", "--config=configs/smoke/stage1.py"),
        f"--workdir={disk}/run",
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {disk} may not be written; mount it")
    assert "Traceback" not in done.stderr


def limit(folder, step):
    if step == 5:
        small_disk.wait_for_first_save(folder)
        # What is printed goes by a process without the limit, or the log would soon be full too.
        reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        assert reader.stdin is not None
        with reader.stdin as printed:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))


def text_with(log, words):
    """What is in the log once the words are, for which it waits a little."""
    deadline = time.monotonic() + 10
    while words not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    return log.read_text()


def test_files_that_may_not_grow_end_the_run_and_cost_nothing_that_is_saved(tmp_path):
    """As on a full disk, for which no right to mount is needed."""
    run = Run("stage1", tmp_path / "run")
    process = run.start(at_step=functools.partial(limit, run.folder), pause=0.1)
    process.join()
    told = text_with(run.log, "error: the checkpoint of step 6 cannot be written to")
    assert process.exitcode == 2, told
    assert "error: the checkpoint of step 6 cannot be written to" in told
    assert "the checkpoints of steps [3] are whole" in told
    assert run.saved() == [3]
    run.finish()
    assert run.told("start") == [3]
    assert run.result() == unbroken("stage1", tmp_path)
