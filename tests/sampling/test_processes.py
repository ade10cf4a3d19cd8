"""Samples by real processes, two devices each, killed on the way and gone on with."""

import signal
import time

import numpy as np
import pytest

from rae_jax.data.sources.image_folder import read_image
from rae_jax.sampling.shards import find_shards
from tests import processes
from tests.processes import finish, said
from tests.project import Project, completed, error_of
from tests.sampling.trained import stage2_run

pytestmark = pytest.mark.multiprocess

SHAPE = (48, 48, 3)


@pytest.fixture(scope="module")
def project(runs, tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    stage2_run(runs, project / "stage2")
    return project


def start(project, workdir, *overrides, num_processes=1, num_devices=2):
    """Starts so many processes that make one set."""
    arguments = project.tool("sample", "sampling", workdir, "--config.checkpoint=stage2")
    return processes.start(project, [*arguments, *overrides], num_processes, num_devices)


def arrays(folder):
    with np.load(folder / "samples.npz") as file:
        return file["arr_0"], file["arr_1"]


MANY = ("--config.num_images=400", "--config.batch_size=8", "--config.save_png")


@pytest.fixture(scope="module")
def alone(project):
    """400 samples by one process of four devices, two on each."""
    finish(start(project, "alone", *MANY, num_devices=4))
    return arrays(project / "alone")


def test_two_processes_make_what_one_makes(project, alone):
    main, other = finish(start(project, "together", *MANY, num_processes=2))
    for array, expected in zip(arrays(project / "together"), alone, strict=True):
        np.testing.assert_array_equal(array, expected)
    pngs = sorted((project / "together" / "png").iterdir())
    assert [path.name for path in pngs] == [f"{n:06d}.png" for n in range(400)]
    np.testing.assert_array_equal(read_image(pngs[7]), alone[0][7])
    assert not (project / "together" / "shards").exists()
    # Only the first of them speaks.
    assert said(main) == [f"samples: {project / 'together' / 'samples.npz'}"]
    assert "images/s" in main.stderr
    assert said(other) == []
    assert "sampling" not in other.stderr
    assert "images/s" not in other.stderr
    again = finish(start(project, "together", *MANY, num_processes=2))
    assert "is there already" in again[0].stderr


def test_one_process_of_one_device_makes_the_same_but_for_rounding(project, alone):
    (process,) = finish(start(project, "single", "--config.num_images=40", num_devices=1))
    images, labels = arrays(project / "single")
    np.testing.assert_array_equal(labels, alone[1][:40])
    difference = np.abs(images.astype(int) - alone[0][:40])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def killed(project, workdir, started):
    """Kills the processes when they have written some shards, and gives those."""
    folder = project / workdir / "shards"
    deadline = time.monotonic() + 200
    while len(list(folder.glob("*.npy"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    for process in started:
        process.send_signal(signal.SIGKILL)
    for process in started:
        completed(process)
    assert not (project / workdir / "samples.npz").exists()
    return find_shards(folder, SHAPE)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (2, 1)])
def test_what_is_killed_goes_on_with_what_is_missing(project, alone, before, after):
    workdir = f"killed_{before}_{after}"
    started = start(project, workdir, *MANY, num_processes=before, num_devices=4 // before)
    shards = killed(project, workdir, started)
    assert 0 < sum(shard.stop - shard.start for shard in shards) < 400
    expected = alone[0].copy()
    for shard in shards[:3]:
        np.testing.assert_array_equal(np.load(shard.path), expected[shard.start : shard.stop])
        # Marks them: if they were made again, the marks would be lost.
        expected[shard.start : shard.stop] = shard.start % 256
        np.save(shard.path, expected[shard.start : shard.stop])
    finish(start(project, workdir, *MANY, num_processes=after, num_devices=4 // after))
    images, labels = arrays(project / workdir)
    np.testing.assert_array_equal(labels, alone[1])
    np.testing.assert_array_equal(images, expected)
    assert len(list((project / workdir / "png").iterdir())) == 400


def test_what_all_processes_find_wrong_ends_them_all(project):
    wrong = ("--config.labels=10",)
    for process in [completed(p) for p in start(project, "wrong", *wrong, num_processes=2)]:
        process.stdout = "\n".join(said(process))
        message = error_of(process)
        assert message.startswith("labels must be below the model's 10 classes, got 10")
