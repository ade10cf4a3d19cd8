import json
import os
import random
import signal
import time

import pytest

from tests.faults.starts import STEPS, Run, unbroken

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def ended_by(run, number, chance):
    """Whether a signal at a random moment of the steps made the run save and leave."""
    before = run.saved()
    process = run.start(pause=0.05)
    count = chance.randint(1, 3)
    run.wait_for(lambda: len(run.told("step")) >= count, process)
    time.sleep(chance.uniform(0, 0.1))
    os.kill(process.pid, number)
    process.join()
    assert run.told("start") == (before or [0])[-1:]
    assert process.exitcode in (0, 75), run.log.read_text()
    # Not a single step is lost.
    assert run.saved()[-1:] == run.told("step")[-1:]
    assert not run.saving()
    return process.exitcode == 75


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_saves_and_goes_on_from_there(folder, number):
    chance, ends = random.Random(number), 0
    run = Run("stage1", folder / signal.Signals(number).name)
    while run.saved()[-1:] != [STEPS]:
        ends += ended_by(run, number, chance)
    assert ends >= 2
    assert run.result() == unbroken("stage1", folder)


def test_a_signal_before_the_first_step_costs_nothing(folder):
    run = Run("stage1", folder / "early")
    for number, status in ((signal.SIGTERM, -signal.SIGTERM),):
        process = run.start()
        run.wait_for(lambda: (run.folder / "config.json").exists(), process)
        os.kill(process.pid, number)
        process.join()
        assert run.told("start") == []
        assert process.exitcode == status, run.log.read_text()
    assert run.finish().result() == unbroken("stage1", folder)


def test_a_second_run_in_one_folder_is_refused_and_does_no_harm(folder):
    run = Run("stage1", folder / "twice")
    first = run.start(pause=0.2)
    run.wait_for(lambda: run.told("step") != [], first)
    noted, told = (run.folder / "config.json").read_bytes(), run.told
    second = Run("stage1", run.folder, log=folder / "second.log")
    second.starts = 100
    process = second.start(config={"duration": "6 steps"})
    process.join()
    alive = first.is_alive()
    first.kill()
    first.join()
    assert process.exitcode == 2
    assert alive and told("step")
    errors = (folder / "second.log").read_text().splitlines()
    assert [line for line in errors if line.startswith("error: ")] == [
        f"error: {run.folder} is in use by process {first.pid} on {os.uname().nodename}; wait for "
        "it to end or end it, or use another --workdir"
    ]
    assert (run.folder / "config.json").read_bytes() == noted
    assert json.loads(noted)["config"]["duration"] == f"{STEPS} steps"
    # The killed one holds nothing any more.
    assert run.finish().result() == unbroken("stage1", folder)
