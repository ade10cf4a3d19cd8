import datetime
import json
import os
import random
import time

import pytest

from tests.faults.starts import STEPS, Run, unbroken

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

_YEARS = 10 * 365 * 86400


def jump():
    """Puts the time of day of a process up to ten years back or forth."""
    clock, nanoseconds, now = time.time, time.time_ns, datetime.datetime
    years = random.Random(os.getpid()).uniform(-_YEARS, _YEARS)

    def shift():
        return years

    class Jumping(now):
        @classmethod
        def now(cls, tz=None):
            return now.fromtimestamp(clock() + shift(), tz)

    time.time = lambda: clock() + shift()
    time.time_ns = lambda: nanoseconds() + int(1e9 * shift())
    datetime.datetime = Jumping


def test_a_clock_that_is_wrong_changes_nothing(tmp_path):
    run = Run("stage1", tmp_path / "jumping")
    process = run.start(before=jump, pause=0.1)
    run.wait_for(lambda: len(run.saved()) == 2, process)
    process.kill()
    process.join()
    # The files of the older checkpoint are of the future, those of the newer one ancient.
    older, newer = run.saved()[-2:]
    for step, when in ((older, 2**32), (newer, 0)):
        for path in (run.checkpoints / str(step)).rglob("*"):
            os.utime(path, (when, when))
        os.utime(run.checkpoints / str(step), (when, when))
    os.utime(run.folder / "lock", (2**32, 2**32))
    run.finish(before=jump, config={"duration": f"{STEPS} steps"})
    assert run.told("start") == [newer]
    assert run.result() == unbroken("stage1", tmp_path)
    assert run.saved() == [STEPS - 3, STEPS]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["steps_per_second"] for line in lines if "steps_per_second" in line]
    # A start's first step is not timed.
    assert len(speeds) >= STEPS - 2
    assert all(0.01 < speed < 1000 for speed in speeds)
