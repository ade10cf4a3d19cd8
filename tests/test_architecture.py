"""Properties of the code base as a whole."""

import ast
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "rae_jax"
FOREIGN = ("torch", "tensorflow", "transformers", "diffusers")
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 80


def python_files(*folders: str) -> list[pathlib.Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def run(*command: str) -> subprocess.CompletedProcess:
    # Tools lie beside the interpreter, whether or not its environment is activated.
    search = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PATH": search},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_succeeds(*command: str) -> None:
    completed = run(*command)
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_import_contracts():
    assert_succeeds("lint-imports", "--no-cache")


def test_formatting_and_lint():
    assert_succeeds("ruff", "format", "--check", ".")
    assert_succeeds("ruff", "check", ".")


def test_spelling():
    assert_succeeds("codespell")


@pytest.mark.long
def test_types():
    assert_succeeds("basedpyright", "--pythonpath", sys.executable)


def test_import_of_the_package_loads_nothing_else():
    program = (
        "import sys; before = set(sys.modules); import rae_jax;"
        "print(*sorted(set(sys.modules) - before))"
    )
    assert run(sys.executable, "-c", program).stdout.split() == ["rae_jax"]


def test_no_module_loads_a_foreign_framework():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in python_files("rae_jax")
    ]
    program = (
        f"import importlib, sys; [importlib.import_module(name) for name in {modules}];"
        f"print(len([m for m in sys.modules if m.split('.')[0] == 'rae_jax']));"
        f"print(*[name for name in {(*FOREIGN, 'wandb')} if name in sys.modules])"
    )
    completed = run(sys.executable, "-c", program)
    assert completed.returncode == 0, completed.stderr
    loaded, foreign = completed.stdout.split("\n", 1)
    assert int(loaded) == len(modules)
    assert foreign.split() == []


def requirements(name: str) -> set[str]:
    """Names of the distributions in the list `name` of setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return {normalized(re.split(r"[\[><=]", r)[0]) for r in ast.literal_eval(node.value)}
    raise LookupError(name)


def normalized(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def imported_packages(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(f"{node.module}")
    return {name.split(".")[0] for name in names}


def test_everything_imported_is_declared():
    own = {"rae_jax", *sys.stdlib_module_names}
    # Imported where they are installed: by the writer of that name, for the same bytes
    # sooner, and for buckets.
    optional = {"wandb", "numba", "simplejpeg", "fsspec"}
    imported = set().union(*map(imported_packages, python_files("rae_jax", "tools", "configs")))
    providers = importlib.metadata.packages_distributions()
    declared = requirements("CORE")
    undeclared = {
        name
        for name in imported - own - optional
        if not declared & {normalized(provider) for provider in providers.get(name, ())}
    }
    assert undeclared == set()


@pytest.mark.parametrize(
    "path", python_files("rae_jax", "tools", "configs"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_files_and_functions_stay_readable(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


def test_no_notes_to_self():
    words = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in python_files("rae_jax", "tools", "configs", "tests")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert found == []


def test_wheel_holds_every_module_and_asset(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, project)
    shutil.copytree(PACKAGE, project / "rae_jax", ignore=shutil.ignore_patterns("__pycache__"))
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir")
    assert_succeeds(*command, str(tmp_path / "dist"), str(project))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("rae_jax/")}
    kept = {*python_files("rae_jax"), *(PACKAGE / "assets").rglob("*")}
    assert packed == {path.relative_to(ROOT).as_posix() for path in kept if path.is_file()}
