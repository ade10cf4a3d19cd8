"""Latent statistics by real processes, killed on the way and gone on with."""

import json
import signal
import time

import numpy as np
import pytest

from tests import processes
from tests.processes import finish, said
from tests.project import Project, completed, error_of

pytestmark = pytest.mark.multiprocess

NUM_IMAGES = 1437


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"))


def start(project, workdir, *overrides, num_processes=1, num_devices=1):
    """Starts so many processes that compute the same statistics, one image at a time."""
    single = "--config.batch_size=1", "--config.save_seconds=0.0"
    arguments = project.tool("compute_latent_statistics", "statistics", workdir, *single)
    return processes.start(project, [*arguments, *overrides], num_processes, num_devices)


def statistics(folder):
    with np.load(folder / "latent_statistics.npz") as arrays:
        return dict(arrays)


def assert_same_bits(folder, expected):
    found = statistics(folder)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert {path.name for path in folder.iterdir()} >= {"config.json", "stat.pt"}
    assert not (folder / "partial").exists()


@pytest.fixture(scope="module")
def alone(project):
    """Statistics by one process of one device."""
    finish(start(project, "alone"))
    found = statistics(project / "alone")
    assert found["count"] == NUM_IMAGES
    return found


def test_two_processes_of_two_devices_give_the_same_bits(project, alone):
    reference = f"--config.reference={project / 'alone' / 'stat.pt'}"
    main, other = finish(start(project, "together", reference, num_processes=2, num_devices=2))
    assert_same_bits(project / "together", alone)
    comparison = json.loads((project / "together" / "comparison.json").read_text())
    # The reference holds float32.
    assert 0 < comparison["mean"]["max_relative"] < 1e-6
    # Only the first of them speaks.
    path = project / "together" / "latent_statistics.npz"
    assert said(main) == [f"latent statistics: {path}"]
    assert "mean differs from that of" in main.stderr
    assert said(other) == []
    assert "differs from" not in other.stderr
    again = finish(start(project, "together", num_processes=2))
    assert "is there already" in again[0].stderr


def killed(project, workdir, started):
    """Kills the processes when each has saved something, and gives how many images are in."""
    folder = project / workdir / "partial"
    deadline = time.monotonic() + 200
    while len(list(folder.glob("*.npz"))) < len(started) and time.monotonic() < deadline:
        time.sleep(0.01)
    for process in started:
        process.send_signal(signal.SIGKILL)
    for process in started:
        completed(process)
    assert not (project / workdir / "latent_statistics.npz").exists()
    counts = []
    for path in folder.glob("*.npz"):
        with np.load(path) as arrays:
            counts.append(int(arrays["count"].sum()))
    return counts


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 2), (2, 1)])
def test_what_is_killed_goes_on_with_what_is_missing(project, alone, before, after):
    workdir = f"killed_{before}_{after}"
    counts = killed(project, workdir, start(project, workdir, num_processes=before))
    assert len(counts) == before
    assert 0 < sum(counts) < NUM_IMAGES
    finish(start(project, workdir, num_processes=after, num_devices=2))
    assert_same_bits(project / workdir, alone)


def test_what_all_processes_find_wrong_ends_them_all(project):
    wrong = ("--config.reference=absent.pt",)
    for process in [completed(p) for p in start(project, "wrong", *wrong, num_processes=2)]:
        process.stdout = "\n".join(said(process))
        assert error_of(process).startswith("no latent statistics at absent.pt")
    assert not (project / "wrong").exists()
