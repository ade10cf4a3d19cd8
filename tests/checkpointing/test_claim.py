import errno
import fcntl
import multiprocessing
import os
import pathlib
import subprocess

import pytest

from rae_jax.checkpointing.claim import claimed, require_free


def _hold(folder, connection):
    with claimed(folder):
        connection.send(os.getpid())
        connection.recv()


@pytest.fixture
def holder(tmp_path):
    """A process that has claimed `tmp_path / "run"`."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path / "run", there))
    process.start()
    assert here.recv() == process.pid
    yield process
    process.kill()
    process.join()


def test_a_second_job_is_refused_until_the_first_is_gone_even_by_a_kill(holder, tmp_path):
    host = os.uname().nodename
    message = f"/run is in use by process {holder.pid} on {host}; wait .* another --workdir"
    for enter in (claimed(tmp_path / "run").__enter__, lambda: require_free(tmp_path / "run")):
        with pytest.raises(ValueError, match=message):
            enter()
    holder.kill()
    holder.join()
    require_free(tmp_path / "run")
    with claimed(tmp_path / "run"):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / "lock").read_text()


def test_a_claim_ends_with_its_block_and_asks_no_clock(tmp_path):
    for _ in range(2):
        with claimed(tmp_path):
            os.utime(tmp_path / "lock", (2**33, 2**33))
        os.utime(tmp_path / "lock", (0, 0))


def test_children_do_not_keep_the_claim(tmp_path):
    with claimed(tmp_path):
        child = subprocess.Popen(["sleep", "60"])
    try:
        require_free(tmp_path)
    finally:
        child.kill()
        child.wait()


def test_the_check_makes_nothing(tmp_path):
    require_free(tmp_path / "new" / "run")
    require_free(tmp_path)
    assert not list(tmp_path.iterdir())


def test_where_there_are_no_locks_a_warning_says_so(tmp_path, monkeypatch, caplog):
    def flock(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with claimed(tmp_path):
        pass
    assert "has no locks" in caplog.text


@pytest.mark.parametrize("what", [".", "metrics.jsonl"])
def test_what_may_not_be_written_is_told_at_once(tmp_path, monkeypatch, what):
    (tmp_path / "metrics.jsonl").touch()
    locked = (tmp_path / what).resolve()
    access = os.access
    # Permissions are not enough: tests may run as root.
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked and access(path, mode))
    with pytest.raises(PermissionError, match=f"{locked} may not be written; .*another --workdir"):
        require_free(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    pathlib.Path(tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="/file is no folder"):
        require_free(tmp_path / "file" / "run")
