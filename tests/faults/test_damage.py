import gc
import logging
import os
import random
import shutil

import jax
import pytest

from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.training import stage1
from tests.checkpointing.states import assert_same_bits
from tests.faults.starts import STEPS, Run, config, unbroken

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of stage 1, not to be changed."""
    return Run("stage1", tmp_path_factory.mktemp("runs") / "finished").finish()


def flip(content, chance):
    damaged = bytearray(content)
    damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


# Orbax leaves errors of reading to be collected; they would be told in whichever test is next.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_whatever_befalls_any_file_is_noticed_or_harmless(finished, tmp_path, caplog):
    """Cut, changed, emptied or lost: what comes back is one of the states that were saved."""
    chance, shapes = (
        random.Random(0),
        jax.eval_shape(stage1.make_job(config("stage1")).initial_state),
    )
    folder = tmp_path / "checkpoints"
    shutil.copytree(finished.checkpoints, folder)
    with CheckpointManager(folder) as manager:
        states = {STEPS: manager.restore_latest(shapes).state}
        shutil.move(folder / str(STEPS), tmp_path / "aside")
    with CheckpointManager(folder) as manager:
        states[STEPS - 3] = manager.restore_latest(shapes).state
    shutil.move(tmp_path / "aside", folder / str(STEPS))
    noticed, harmless = {}, {}
    for path in sorted(p for p in (folder / str(STEPS)).rglob("*") if p.is_file()):
        content = path.read_bytes()
        damages = {
            "cut": content[: chance.randrange(len(content))],
            "changed": flip(content, chance),
            "changed again": flip(content, chance),
            "lost": None,
        }
        for damage, damaged in damages.items():
            path.unlink() if damaged is None else path.write_bytes(damaged)
            caplog.clear()
            with CheckpointManager(folder) as manager, caplog.at_level(logging.WARNING):
                restored = manager.restore_latest(shapes)
            assert_same_bits(restored.state, states[restored.step])
            told = f"/{STEPS} is passed over" in caplog.text
            assert told == (restored.step != STEPS), caplog.text
            (noticed if told else harmless).setdefault(path.name, []).append(damage)
            path.write_bytes(content)
    print("noticed", noticed, "harmless", harmless)
    # The metadata file and the files of the arrays are what a state is made of.
    assert len(noticed["metadata"]) == 4
    assert sum(map(len, noticed.values())) >= 12
    gc.collect()


def test_a_run_goes_on_from_the_checkpoint_before_and_says_so(finished, tmp_path):
    run = Run("stage1", tmp_path / "run")
    shutil.copytree(finished.folder, run.folder)
    newest = run.checkpoints / str(STEPS)
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    run.finish()
    assert run.told("start") == [STEPS - 3]
    assert f"{newest} is passed over: its arrays cannot be read" in run.log.read_text()
    assert (run.checkpoints / f"damaged-{STEPS}").is_dir()
    assert run.result() == unbroken("stage1", tmp_path)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(finished, tmp_path):
    run = Run("stage1", tmp_path / "run")
    shutil.copytree(finished.folder, run.folder)
    for step in run.saved():
        (run.checkpoints / str(step) / "metadata" / "metadata").write_text("{}")
    metrics = (run.folder / "metrics.jsonl").read_bytes()
    process = run.start()
    process.join()
    assert process.exitcode == 2
    assert "error: no checkpoint in" in run.log.read_text()
    assert run.saved() == [STEPS - 3, STEPS]
    assert (run.folder / "metrics.jsonl").read_bytes() == metrics
