"""The command line of tools, in processes of their own: flags are global."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.configuration import tool

ROOT = pathlib.Path(__file__).parents[2]

FILES = {
    "configs/stage1.py": """
        from rae_jax.configuration import defaults

        def get_config():
            return defaults.stage1()
        """,
    "configs/misspelt.py": """
        from rae_jax.configuration import defaults

        def get_config():
            config = defaults.stage1()
            config.optimizer.lerning_rate = 1.0
            return config
        """,
    "configs/broken.py": "def get_config(:\n",
    "configs/none.py": "def get_config():\n    pass\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "configs").mkdir()
    for name, text in FILES.items():
        lines = text.strip("\n").split("\n")
        indent = len(lines[0]) - len(lines[0].lstrip())
        (folder / name).write_text("\n".join(line[indent:] for line in lines))
    return folder


@pytest.fixture
def run(folder):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, tool.__file__, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def error_line(completed: subprocess.CompletedProcess) -> str:
    assert completed.returncode == 2, completed
    assert completed.stdout == ""
    lines = completed.stderr.splitlines()
    assert len(lines) == 1, completed.stderr
    return lines[0]


STAGE1 = ("--config=configs/stage1.py", "--workdir=out")


def test_overrides_reach_the_parsed_config(run):
    completed = run(
        *STAGE1,
        "--config.optimizer.learning_rate=1",
        "--config.data.horizontal_flip",
        "--config.loop.writers=('jsonl',)",
        "--config.seed",
        "7",
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.splitlines() == ["out 7 1.0 True ('jsonl',)"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--workdir=out",),
            "--config is missing; pass one of: configs/broken.py, configs/misspelt.py, "
            "configs/none.py, configs/stage1.py",
        ),
        (
            ("--config=configs/stage_1.py", "--workdir=out"),
            "--config=configs/stage_1.py does not exist: did you mean 'configs/stage1.py'?",
        ),
        (
            ("--config=configs/stage1.py",),
            "--workdir is missing; pass the folder that this run may write to",
        ),
        (
            (*STAGE1, "--config.optimiser.learning_rate=1"),
            "unknown key --config.optimiser.learning_rate: did you mean 'optimizer.learning_rate'?",
        ),
        (
            (*STAGE1, "--config.beta1=1"),
            "unknown key --config.beta1: did you mean 'optimizer.beta1'?",
        ),
        (
            (*STAGE1, "--noconfig.data.horizontal_flp"),
            "unknown key --config.data.horizontal_flp: did you mean 'data.horizontal_flip'?",
        ),
        (
            (*STAGE1, "--config.optimizer.learning_rate=fast"),
            "flag --config.optimizer.learning_rate=fast: could not convert string to float: 'fast'",
        ),
        (
            (*STAGE1, "--config.schedule.kind=cosin"),
            "schedule.kind must be one of ('cosine', 'linear', 'constant'), got 'cosin'",
        ),
        ((*STAGE1, "--wrkdir=x"), "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
        ((*STAGE1, "surplus"), "unexpected arguments ['surplus']; flags are --name=value"),
        (
            ("--config=configs/none.py", "--workdir=out"),
            "configs/none.py: get_config() must return a ConfigDict, got None",
        ),
        ((*STAGE1, "--config.data.path=missing"), "no image folder missing"),
    ],
)
def test_user_errors_are_one_line(run, arguments, message):
    assert error_line(run(*arguments)) == f"error: {message}"


def test_error_in_a_config_file_names_its_line(run):
    line = error_line(run("--config=configs/misspelt.py", "--workdir=out"))
    assert line.startswith('error: configs/misspelt.py:5: AttributeError: Key "lerning_rate"')
    assert 'Did you mean "learning_rate"' in line
    line = error_line(run("--config=configs/broken.py", "--workdir=out"))
    assert line.startswith("error: configs/broken.py: SyntaxError: ")


def test_traceback_of_a_user_error_is_shown_on_request(run):
    completed = run(*STAGE1, "--config.data.path=missing", "--verbosity=1")
    assert completed.returncode == 2
    assert "Traceback" in completed.stderr
    assert completed.stderr.endswith("error: no image folder missing\n")


def test_other_errors_keep_their_traceback(run):
    completed = run(*STAGE1, "--config.data.path=fault")
    assert completed.returncode == 1
    assert "Traceback" in completed.stderr


def test_interrupt_is_one_line(run):
    completed = run(*STAGE1, "--config.data.path=interrupt")
    assert completed.returncode == 130
    assert completed.stderr == "interrupted\n"


def test_help_needs_no_config(run):
    completed = run("--help")
    assert "--config" in completed.stdout
    assert "error" not in completed.stdout + completed.stderr
