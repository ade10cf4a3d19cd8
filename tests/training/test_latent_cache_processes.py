"""Cached latents by real processes, killed on the way and gone on with."""

import signal
import time

import pytest

from tests import processes
from tests.processes import finish
from tests.project import Project

pytestmark = pytest.mark.multiprocess

PLAIN = ("--config.autoencoder.statistics=", "--config.batch_size=64")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"))


def start(project, workdir, *overrides, num_processes=1):
    arguments = project.tool("cache_latents", "cache", workdir, *PLAIN, *overrides)
    return processes.start(project, arguments, num_processes)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.array_record"))}


def test_two_processes_and_a_kill_make_the_files_of_one(project):
    many = "--config.images_per_shard=100"
    finish(start(project, "one", many))
    killed = start(project, "two", many, num_processes=2)
    deadline = time.monotonic() + 200
    while len(list((project / "two").glob("caching/[0-9]*.json"))) < 4:
        assert time.monotonic() < deadline and killed[0].poll() is None
        time.sleep(0.02)
    for process in killed:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    there = files(project / "two")
    assert 4 <= len(there) < 15
    assert not (project / "two" / "manifest.json").exists()
    first, second = finish(start(project, "two", many, num_processes=2))
    assert f"cached latents: {project / 'two'}" in first.stdout
    assert "cached latents" not in second.stdout
    made = files(project / "two")
    assert len(made) == 15
    assert made == files(project / "one")
    assert {name: made[name] for name in there} == there
    assert (project / "two/manifest.json").read_text() == (
        project / "one/manifest.json"
    ).read_text()
    (again,) = finish(start(project, "two", many))
    assert "is complete, with the right checksums" in again.stderr
