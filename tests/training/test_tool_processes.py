"""Both stages by the tools over two and four processes, and what becomes of processes that die."""

import json
import signal
import time

import numpy as np
import pytest

from rae_jax.data.sources.image_folder import read_image
from tests.evaluation.extractors import digits
from tests.processes import ended, finish, free_address, said, start, together
from tests.project import Project, error_of

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(900)]

ONE, TWO, FOUR = (1, 4), (2, 2), (4, 1)
"""Processes, and devices of each."""

COUNT = 16
EVALUATION = (
    "--config.evaluation.every=4 steps",
    f"--config.evaluation.num_images={COUNT}",
    "--config.evaluation.batch_size=8",
    "--config.evaluation.extractor.kind=encoder",
    "--config.evaluation.extractor.encoder.path=builtin:digits_mae",
    "--config.evaluation.extractor.encoder.input_size=48",
)
TRAINING = (
    "--config.loop.checkpoint_every=2 steps",
    "--config.loop.preview_every=4 steps",
    "--config.loop.log_every=1 steps",
    *EVALUATION,
)
GAN = (
    # Above the rounding of gradients, whose sign the first updates of Adam would follow else.
    "--config.optimizer.epsilon=0.001",
    "--config.gan.optimizer.epsilon=0.001",
    "--config.lpips.start=1 steps",
    "--config.gan.discriminator_start=2 steps",
    "--config.gan.start=3 steps",
    "--config.evaluation.images.path=images.npz",
)
DENOISER = (
    "--config.evaluation.reference.path=images.npz",
    "--config.evaluation.metrics=('fid',)",
    "--config.evaluation.sampler.num_steps=3",
    "--config.autoencoder.checkpoint=first_alone",
    "--config.autoencoder.statistics=",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    np.savez(project / "images.npz", arr_0=digits("test", COUNT))
    return project


def run(project, arguments, spread):
    """What the processes of a job have said; only the first of them may speak."""
    main, *others = finish(start(project, arguments, *spread))
    for other in others:
        assert said(other) == []
        told = [line for line in other.stderr.splitlines() if "distributed.py" not in line]
        assert told == []
    return main


def trained(project, tool, config, workdir, several, *overrides):
    """The folders of a run of 4 steps by one process, and of the same run by several.

    Args:
        project: Where.
        tool: Name of the tool.
        config: Name of the config.
        workdir: Beginning of the folders' names.
        several: Who goes on, up to which step.
        *overrides: Further arguments.
    """
    folders = []
    for name, turns in (("alone", {4: ONE}), ("together", several)):
        folder = project / f"{workdir}_{name}"
        for step, spread in turns.items():
            duration = f"--config.duration={step} steps"
            arguments = project.tool(tool, config, folder.name, duration, *TRAINING, *overrides)
            main = run(project, arguments, spread)
            assert "on 4 device(s)" in main.stderr
            assert len(said(main)) == 1
        folders.append(folder)
    return folders


def metrics(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    # A line may be only half written.
    return [json.loads(line) for line in lines if line.endswith("}")]


def values(folder):
    """Numbers of the log by (step, name), without those of speed."""
    speed = "per_second", "per_device", "utilization"
    return {
        (line["step"], name): value
        for line in metrics(folder)
        for name, value in line.items()
        if not name.endswith(speed)
    }


def assert_same_run(folders, picture):
    """Logs, scores and pictures are those of one process but for rounding."""
    alone, folder = folders
    expected, found = values(alone), values(folder)
    assert any("evaluation/ema" in name for _, name in expected)
    # Each number once: no second process has written.
    assert len(metrics(folder)) == len(metrics(alone))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    here, there = ({str(path.relative_to(at)) for path in written(at)} for at in folders)
    assert here == there
    assert steps_there(folder) == steps_there(alone) == {2, 4}
    drawn, wanted = (read_image(at / "images" / picture).astype(int) for at in folders)
    assert np.abs(drawn - wanted).max() <= 2


def written(folder):
    """Files of a run but for those in its checkpoints, where each process has some of its own."""
    return (path for path in folder.rglob("*") if "checkpoints" not in path.parts)


def steps_there(folder):
    return {int(path.name) for path in folder.glob("checkpoints/*") if path.name.isdecimal()}


@pytest.fixture(scope="module")
def first(project):
    return trained(project, "train_stage1", "stage1_gan", "first", {4: FOUR}, *GAN)


def test_stage_1_with_its_adversary_is_that_of_one_process(first):
    assert_same_run(first, "reconstructions_00000004.png")
    last = metrics(first[-1])[3]
    assert last["discriminator_loss"] > 0
    assert last["adversarial"] != 0


def test_stage_2_and_its_samples_are_those_of_one_process(project, first):
    # Another number of processes goes on with what the first two have saved.
    folders = trained(project, "train_stage2", "stage2", "second", {2: TWO, 4: FOUR}, *DENOISER)
    assert_same_run(folders, "samples_00000004.png")
    images = []
    for spread in (ONE, FOUR):
        checkpoint = f"--config.checkpoint={folders[1].name}"
        workdir = f"samples_{spread[0]}"
        run(project, project.tool("sample", "sampling", workdir, checkpoint), spread)
        with np.load(project / workdir / "samples.npz") as arrays:
            images.append(arrays["arr_0"])
    np.testing.assert_array_equal(*images)


PATIENCE = 10
ENDLESS = (
    "--config.duration=100000 steps",
    "--config.loop.checkpoint_every=5 steps",
    f"--heartbeat_timeout={PATIENCE}",
)
LOST = 69


def once_saved(processes, folder, after):
    """Waits for a checkpoint of a later step than `after`."""
    deadline = time.monotonic() + 240
    while max(steps_there(folder), default=0) <= after:
        assert time.monotonic() < deadline
        assert [process.poll() for process in processes] == [None] * len(processes)
        time.sleep(0.02)


def struck(project, number, victim, how):
    """Starts two processes in the same folder, strikes one, and gives both when ended."""
    folder = project / "struck"
    before = max(steps_there(folder), default=0)
    processes = start(project, project.tool("train_stage1", "stage1", folder.name, *ENDLESS), 2)
    try:
        once_saved(processes, folder, before)
        struck_at = time.monotonic()
        processes[victim].send_signal(how)
        (survivor,) = ended([processes[1 - victim]])
    finally:
        processes[victim].kill() if how == signal.SIGSTOP else None
        (dead,) = ended([processes[victim]])
    assert time.monotonic() - struck_at < 3 * PATIENCE + 30
    if number:
        log = survivor.stderr if victim else dead.stderr
        assert "going on after step" in log
    return dead, survivor


def last_error(process):
    lines = [line for line in process.stderr.splitlines() if line]
    starts = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    assert starts, process.stderr
    return "\n".join(lines[starts[-1] :])


def test_a_process_that_is_lost_ends_the_other_with_its_name_and_nothing_is_lost(project):
    silent = f"has given no sign of life for {PATIENCE} s: it was killed or stopped"
    again = "start all processes again; what they did goes on from what was saved last"

    _, survivor = struck(project, 0, 1, signal.SIGKILL)
    assert survivor.returncode == LOST
    assert last_error(survivor).startswith("error: process 1 (")
    assert silent in last_error(survivor)
    assert again in last_error(survivor)

    _, survivor = struck(project, 1, 0, signal.SIGKILL)
    assert survivor.returncode == LOST
    assert last_error(survivor).startswith("error: the process 0 of this job, or the way to it,")
    assert again in last_error(survivor)

    _, survivor = struck(project, 2, 0, signal.SIGSTOP)
    assert survivor.returncode == LOST
    assert last_error(survivor).startswith(f"error: process 0 {silent}")

    # As any error that comes up in one process alone.
    dead, survivor = struck(project, 3, 1, signal.SIGINT)
    assert (dead.returncode, survivor.returncode) == (130, LOST)
    assert "interrupted" in dead.stderr
    assert "ended with an error: KeyboardInterrupt()" in last_error(survivor)

    dead, survivor = struck(project, 4, 1, signal.SIGTERM)
    assert (dead.returncode, survivor.returncode) == (75, 75)
    assert "interrupted after step" in survivor.stderr

    reached = max(steps_there(project / "struck"))
    unbroken = project.tool("train_stage1", "stage1", "unbroken")
    finish(start(project, [*unbroken, f"--config.duration={reached} steps"], 2))
    expected = {
        step: line["loss"] for line in metrics(project / "unbroken") if (step := line["step"])
    }
    found = {line["step"]: line["loss"] for line in metrics(project / "struck")}
    assert found == expected


def test_processes_that_do_not_come_or_do_not_agree_end_with_a_word(project):
    arguments = project.tool("train_stage1", "stage1", "early")
    address = free_address()
    (waiting,) = ended([project.start(*arguments, *together(2, address)[0], "--start_timeout=5")])
    assert waiting.returncode == LOST
    missing = f"error: process 1 of 2 did not come to {address} within 5 s"
    assert last_error(waiting).startswith(missing)

    same, other = together(2)
    different = "--config.seed=7", f"--workdir={project / 'elsewhere'}"
    main, wrong = ended(
        [project.start(*arguments, *same), project.start(*arguments, *other, *different)]
    )
    wrong.stdout = "\n".join(said(wrong))
    wrong.stderr = "\n".join(x for x in wrong.stderr.splitlines() if "distributed.py" not in x)
    message = error_of(wrong)
    assert message.startswith("process 1 was started with other settings than process 0:")
    assert "config.seed: 0 in process 0, 7 in this one" in message
    assert "workdir: " in message
    assert main.returncode == LOST
    assert message in last_error(main)
    assert not (project / "early").exists()
    assert not (project / "elsewhere").exists()
