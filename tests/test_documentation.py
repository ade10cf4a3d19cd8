"""Every fenced block of the documents is executed, or compared with what is executed elsewhere."""

import ast
import pathlib
import re
import shlex

import pytest

from tests.project import ROOT, TINY, Project, succeeded

DOCUMENTS = sorted(
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "configs/README.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
)
TOOLS = sorted((ROOT / "tools").glob("*.py"))

STEPS = "--config.duration=3 steps"
OVERRIDES = {
    "tools/demo.py": (
        *TINY["demo"],
        "--config.stage1.duration=3 steps",
        "--config.stage2.duration=3 steps",
    ),
    "tools/convert_weights.py": (),
    "tools/export_weights.py": (),
    "tools/inspect_checkpoint.py": (),
    "tools/prepare_dataset.py": (),
    "tools/benchmark.py": ("--preset=tiny", "--images=8", "--rounds=1", "--batch_size=4"),
    "configs/smoke/encoder.py": (*TINY["pretrain_demo_encoder"], STEPS),
    "configs/smoke/stage1.py": (
        *TINY["train_stage1"],
        STEPS,
        # Commands that follow show images of the previews.
        "--config.loop.preview_every=3 steps",
    ),
    "configs/smoke/stage1_gan.py": (*TINY["train_stage1"], STEPS),
    "configs/smoke/statistics.py": TINY["compute_latent_statistics"],
    "configs/smoke/cache.py": TINY["cache_latents"],
    "configs/smoke/stage2.py": (*TINY["train_stage2"], STEPS),
    "configs/smoke/sampling.py": TINY["sample"],
    "configs/smoke/reconstruction.py": TINY["reconstruct"],
    "configs/smoke/reference.py": (),
    "configs/smoke/evaluation.py": (),
    "configs/smoke/reconstruction_evaluation.py": (),
    "configs/evaluation/packing.py": (),
}
"""What is appended to commands, by the config they name or, without one, by the tool."""

EXAMPLES = {path.read_text() for path in (ROOT / "docs" / "examples").glob("*.py")}
"""Programs that need a trained model; tests/test_examples.py runs them."""

STAND_INS = {"facebook/vit-mae-base": str(ROOT / "rae_jax" / "assets" / "digits_mae")}
"""Published weights -> a local folder of the same layout."""

README_TEST = (
    'pip install -e ".[test]" && pytest && pytest -m "long or tools or multiprocess or faults"'
)
NOT_RUN = {
    'pip install -e ".[test]"': "the first part of .ci/run",
    "pytest": "the second part of .ci/run",
    'pytest -m "long or tools or multiprocess or faults"': "the third part of .ci/run",
    "pip install -e .": "the same with an extra less",
    "python3.11 -m venv .venv": "done by .ci/run with a folder of its own",
    "source .venv/bin/activate": "belongs to the line before",
    "pre-commit install": "changes the clone",
}
"""Commands that are no tools, and why they are not executed here."""


def blocks(document: pathlib.Path) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks of a document."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[str]:
    """Single commands of a block of shell lines."""
    lines = block.replace("\\\n", " ").splitlines()
    return [" ".join(part.split()) for line in lines for part in line.split("&&") if part.strip()]


def shortened(command: str) -> list[str]:
    """Arguments for Python of a command `python tools/...`, made quick."""
    for name, folder in STAND_INS.items():
        command = command.replace(name, folder)
    arguments = shlex.split(command)[1:]
    configs = [text.removeprefix("--config=") for text in arguments if text.startswith("--config=")]
    key = configs[-1] if configs else arguments[0]
    assert key in OVERRIDES, f"add to OVERRIDES what makes {key} quick, for: {command}"
    return [*arguments, *OVERRIDES[key]]


def check_output(block: str, printed: str) -> None:
    """Compares what a block of Python has printed with the comments behind its prints."""
    expected = re.findall(r"^print\(.*\)  # (.+)$", block, re.MULTILINE)
    if expected:
        assert printed.splitlines() == expected


def test_the_documents_are_there():
    names = {str(path.relative_to(ROOT)) for path in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "configs/README.md", "docs/sampling.md"} <= names


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_has_a_quick_form_or_a_reason(document):
    for language, block in blocks(document):
        # Blocks without a language are text.
        assert language in ("bash", "python", ""), f"```{language}: call it bash or python"
        for command in commands(block) if language == "bash" else ():
            if command.startswith("python tools/"):
                shortened(command)
            else:
                assert command in NOT_RUN, f"{command!r} is neither run here nor in NOT_RUN"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "document",
    [
        # The README is what everybody starts with; the guides run whole programs at length.
        pytest.param(
            path,
            id=str(path.relative_to(ROOT)),
            marks=pytest.mark.tools if path.name == "README.md" else pytest.mark.slow,
        )
        for path in DOCUMENTS
    ],
)
def test_every_block_does_what_it_says(document, tmp_path):
    project = Project(tmp_path)
    for language, block in blocks(document):
        if block in EXAMPLES:
            continue
        if language == "python":
            for name, folder in STAND_INS.items():
                block = block.replace(name, folder)
            check_output(block, succeeded(project.run("-c", block)).stdout)
            continue
        for command in commands(block) if language else ():
            if command.startswith("python tools/"):
                succeeded(project.run(*shortened(command)))


def test_the_test_command_of_the_readme_is_that_of_ci():
    lines = [line for _, block in blocks(ROOT / "README.md") for line in block.splitlines()]
    assert [line for line in lines if "pytest" in line] == [README_TEST]
    assert README_TEST in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_the_command_in_the_docstring_of_a_tool_is_legal(path, tmp_path):
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    (command,) = [
        text for text in docstring.replace("\\\n", " ").splitlines() if text.startswith("python ")
    ]
    _, script, *flags = shlex.split(command)
    assert script == f"tools/{path.name}"
    succeeded(Project(tmp_path).run(script, *flags, "--only_check_args"))
    process = Project(tmp_path / "misspelt").run(script, *flags, "--only_check_args", "--confg=x")
    assert process.returncode == 2


def test_an_unknown_command_is_refused():
    with pytest.raises(AssertionError, match="add to OVERRIDES what makes tools/new.py quick"):
        shortened("python tools/new.py --workdir=runs/new")
