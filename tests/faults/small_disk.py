"""A run on a disk that fills up, and then goes on: python -m tests.faults.small_disk FOLDER."""

import dataclasses
import functools
import json
import os
import pathlib
import sys
import time

from rae_jax.configuration.schema import LoopConfig
from tests.faults.starts import LOOP, Run

SIZE = "6m"
FULL_AFTER = 4


def wait_for_first_save(run: pathlib.Path) -> None:
    """Returns when the checkpoint of step 3 is complete, which may take longer than the steps."""
    while not (run / "checkpoints" / "3").exists():
        time.sleep(0.01)


def fill(filler: pathlib.Path, step: int) -> None:
    """Leaves room for lines of metrics, not for a checkpoint."""
    if step != FULL_AFTER:
        return
    wait_for_first_save(filler.parent / "run")
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            os.truncate(filler, filler.stat().st_size - 40_000)


def main(disk: pathlib.Path) -> None:
    """Prints a JSON value of what happened."""
    # What it prints goes elsewhere: a full disk does not take the error either.
    run, filler = Run("stage1", disk / "run", log=disk.with_suffix(".log")), disk / "filler"
    # The writers that there are by default.
    loop = {"loop": dataclasses.replace(LOOP, writers=LoopConfig().writers)}
    process = run.start(at_step=functools.partial(fill, filler), pause=0.1, config=loop)
    process.join()
    told = {
        "status": process.exitcode,
        "log": run.log.read_text(),
        "saved": run.saved(),
        "told": run.told("step"),
        "full_after": FULL_AFTER,
    }
    filler.unlink()
    run.finish(config=loop)
    fingerprint, metrics = run.result()
    told |= {"start": run.told("start"), "fingerprint": fingerprint, "metrics": metrics}
    print(json.dumps(told))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
