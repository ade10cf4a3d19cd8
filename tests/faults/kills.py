"""Runs that are killed over and over at random moments, of kinds that are counted."""

import collections
import pathlib
import random
import time

from absl import logging

from tests.faults.starts import STEPS, Run, unbroken

FIRST_SAVE, SAVE, STEP, START = "first save", "save", "step", "start"


class Killer:
    """Kills processes of runs until each kind of moment has been struck often enough.

    What a kill has struck is told by what it leaves, not by what it aimed at.
    """

    def __init__(self, seed: int, quotas: dict[str, int]):
        self.random = random.Random(seed)
        self.quotas = quotas
        self.struck: collections.Counter[str] = collections.Counter()

    @property
    def wanted(self) -> list[str]:
        """Kinds of which more are wanted."""
        return [kind for kind, count in self.quotas.items() if self.struck[kind] < count]

    def aim(self, run: Run) -> str:
        """A kind that can be struck in the next process of the run."""
        if not run.saved() and FIRST_SAVE in self.wanted:
            return FIRST_SAVE
        return self.random.choice([kind for kind in self.wanted if kind != FIRST_SAVE] or [STEP])

    def strike(self, run: Run) -> str | None:
        """Starts a process of the run and kills it; tells what it was about, None if it ended."""
        aim, before = self.aim(run), run.saved()
        # With time between the steps, so that not all of them pass in one save.
        process = run.start(pause=self.random.uniform(0, 0.1))
        if aim == START:
            time.sleep(self.random.uniform(0, 1.5))
        elif aim == STEP:
            count = self.random.randint(1, 4)
            run.wait_for(lambda: len(run.told("step")) >= count and not run.saving(), process)
            time.sleep(self.random.uniform(0, 0.02))
        else:
            count = 0 if aim == FIRST_SAVE else self.random.randint(0, 1)
            run.wait_for(lambda: len(set(run.saved()) - set(before)) >= count, process)
            run.wait_for(run.saving, process)
            time.sleep(self.random.uniform(0, 0.1))
        process.kill()
        process.join()
        if process.exitcode != -9:
            assert process.exitcode == 0, run.log.read_text()
            return None
        self.require_resumed(run, before)
        struck = START if not run.told("start") else STEP
        if run.saving():
            struck = SAVE if run.saved() else FIRST_SAVE
        self.struck[struck] += 1
        logging.info("killed in %s after %s, saved %s", struck, run.told("step")[-1:], run.saved())
        return struck

    def require_resumed(self, run: Run, before: list[int]) -> None:
        """The process began with the last checkpoint that was complete, and lost none."""
        assert run.told("start") in ([], (before or [0])[-1:]), run.log.read_text()
        # Steps come one after the other, and what is saved stays until newer ones are there.
        assert run.told("step") == list(
            range((before or [0])[-1] + 1, (before or [0])[-1] + 1 + len(run.told("step")))
        )
        assert run.saved()[-1:] >= before[-1:]


def kill_until_struck(
    kind: str, folder: pathlib.Path, seed: int, quotas: dict[str, int]
) -> collections.Counter[str]:
    """Kills runs, each of which ends at last, until every quota is met; all end like one unbroken.

    Returns:
        How often each kind of moment was struck.
    """
    expected = unbroken(kind, folder)
    killer, runs, strikes = Killer(seed, quotas), 0, 0
    while killer.wanted:
        runs += 1
        run = Run(kind, folder / f"killed_{kind}_{runs}")
        while killer.wanted and killer.strike(run) is not None:
            strikes += 1
            assert strikes <= 2 * sum(quotas.values()), killer.struck
        before = run.saved()
        if before[-1:] != [STEPS]:
            run.finish()
            killer.require_resumed(run, before)
        assert run.result() == expected
        assert not run.saving()
    print(f"{kind}: killed {sum(killer.struck.values())} times, in {dict(killer.struck)}")
    return killer.struck
