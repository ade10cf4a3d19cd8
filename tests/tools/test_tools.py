"""Every tool as a process, one after another as a user runs them."""

import ast
import hashlib
import json
import pathlib
import re
import signal
import time

import numpy as np
import pytest
from PIL import Image

from tests.project import ROOT, TINY, WITHOUT_CONFIG, Project, completed, error_of, succeeded

pytestmark = pytest.mark.tools

TOOLS = sorted((ROOT / "tools").glob("*.py"))
ENCODER = "--config.autoencoder.encoder.path=runs/encoder/encoder"
STATISTICS = "runs/statistics/latent_statistics.npz"
SIZE = 48


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def encoder(project):
    arguments = project.tool("pretrain_demo_encoder", "encoder", "runs/encoder")
    return succeeded(project.run(*arguments, "--config.duration=3 steps"))


@pytest.fixture(scope="module")
def stage1(project, encoder):
    """Three steps, then two more; beside it, five at once."""

    def train(workdir, steps):
        arguments = project.tool("train_stage1", "stage1", workdir, ENCODER)
        return succeeded(project.run(*arguments, f"--config.duration={steps} steps"))

    first, second = train("runs/stage1", 3), train("runs/stage1", 5)
    train("runs/at_once", 5)
    return first, second


@pytest.fixture(scope="module")
def statistics(project, encoder):
    arguments = project.tool("compute_latent_statistics", "statistics", "runs/statistics", ENCODER)
    return succeeded(project.run(*arguments))


def stage2_arguments(project: Project, steps: int) -> list[str]:
    # The paths of stage 1 and of the statistics are those that the smoke config has.
    duration = f"--config.duration={steps} steps"
    return project.tool("train_stage2", "stage2", "runs/stage2", ENCODER, duration)


@pytest.fixture(scope="module")
def stage2(project, stage1, statistics):
    """A run that was asked to end after some steps."""
    arguments = stage2_arguments(project, 100_000)
    return interrupted(project.start(*arguments), project / "runs/stage2", 50)


def interrupted(process, folder: pathlib.Path, num_steps: int):
    """Asks `process` to end once the training run in `folder` has logged so many steps."""
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if len(metrics(folder)) >= num_steps:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.02)
    return completed(process)


@pytest.fixture(scope="module")
def samples(project, stage2):
    """Arguments of a finished set of samples, and what the tool said."""
    arguments = project.tool("sample", "sampling", "runs/samples", "--config.save_png")
    return arguments, succeeded(project.run(*arguments))


def metrics(folder: pathlib.Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    # A line may be only half written.
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def contents(folder: pathlib.Path) -> dict[str, str]:
    # The lock of a work folder tells who had it last.
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock")
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def pixels(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def last_line(process) -> str:
    return process.stdout.splitlines()[-1]


def check_samples(folder: pathlib.Path) -> np.ndarray:
    with np.load(folder / "samples.npz") as arrays:
        images, labels = arrays["arr_0"], arrays["arr_1"]
    assert images.shape == (20, SIZE, SIZE, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert sorted(labels[:10]) == sorted(labels[10:]) == list(range(10))
    # Ten rows of two, with two pixels between.
    assert pixels(folder / "samples.png").shape == (2 + 10 * 50, 2 + 2 * 50, 3)
    return images


def test_pretraining_writes_an_encoder_in_the_published_layout(project, encoder):
    folder = project / "runs/encoder/encoder"
    assert last_line(encoder) == f"encoder: {folder}"
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "preprocessor_config.json", "model.safetensors"}
    assert json.loads((folder / "config.json").read_text())["model_type"] == "vit_mae"


def test_training_tells_what_it_does(project, stage1):
    first, _ = stage1
    assert last_line(first) == f"stage-1 run: {project / 'runs/stage1'}"
    assert re.search(r"\] optimizer: learning_rate=\S+, beta1=\S+, ", first.stderr)
    assert re.search(r"stage1: [\d,]+ parameters to train, [\d,]+ frozen", first.stderr)
    steps = "8 images per step on 1 device(s); steps 1 to 3, 0.02 epochs of 1437 images"
    assert steps in first.stderr


def test_resumed_training_goes_on_as_if_never_interrupted(project, stage1):
    assert "going on after step 3" in stage1[1].stderr
    resumed, at_once = metrics(project / "runs/stage1"), metrics(project / "runs/at_once")
    assert [line["step"] for line in resumed] == [1, 2, 3, 4, 5]
    assert [line["loss"] for line in resumed] == [line["loss"] for line in at_once]


def test_finished_training_says_so_and_does_nothing(project, stage1):
    before = contents(project / "runs/stage1")
    arguments = project.tool("train_stage1", "stage1", "runs/stage1", ENCODER)
    again = succeeded(project.run(*arguments, "--config.duration=5 steps"))
    assert "is finished: 5 steps are done, duration asks for 5" in again.stderr
    assert last_line(again) == f"stage-1 run: {project / 'runs/stage1'}"
    assert contents(project / "runs/stage1") == before


def test_statistics_are_those_of_all_images(project, statistics):
    path = project / STATISTICS
    assert last_line(statistics) == f"latent statistics: {path}"
    with np.load(path) as arrays:
        assert arrays["count"] == 1437
        assert arrays["mean"].shape == arrays["variance"].shape == (3, 3, 64)
        assert (arrays["variance"] > 0).all()


def test_training_that_is_asked_to_end_saves_and_says_so(project, stage2):
    assert stage2.returncode == 75, stage2.stderr
    message = re.search(r"^interrupted after step (\d+); start again to go on", stage2.stderr, re.M)
    assert message, stage2.stderr
    assert "Traceback" not in stage2.stderr
    assert (project / f"runs/stage2/checkpoints/{message[1]}").is_dir()


def test_samples_come_as_npz_picture_and_files(project, samples):
    _, process = samples
    folder = project / "runs/samples"
    assert last_line(process) == f"samples: {folder / 'samples.npz'}"
    images = check_samples(folder)
    np.testing.assert_array_equal(pixels(folder / "png/000013.png"), images[13])
    assert len(list((folder / "png").iterdir())) == 20
    assert not (folder / "shards").exists()


def test_finished_samples_are_left_alone(project, samples):
    arguments, first = samples
    before = contents(project / "runs/samples")
    again = succeeded(project.run(*arguments))
    assert "samples.npz is there already" in again.stderr
    assert again.stdout == first.stdout
    assert contents(project / "runs/samples") == before


def test_guidance_changes_samples(project, samples):
    guided = project.tool(
        "sample",
        "sampling",
        "runs/guided",
        "--config.guidance.method=classifier_free",
        "--config.guidance.scale=1e6",
    )
    succeeded(project.run(*guided))
    assert not (project / "runs/guided/png").exists()
    images = check_samples(project / "runs/guided")
    # The labels of a run this short count for little without such a scale.
    assert (images != check_samples(project / "runs/samples")).any()


def test_interrupted_training_goes_on_and_its_new_samples_need_a_new_folder(project, samples):
    step = max(int(path.name) for path in (project / "runs/stage2/checkpoints").iterdir())
    resumed = succeeded(project.run(*stage2_arguments(project, step + 2)))
    assert f"going on after step {step}" in resumed.stderr
    assert f"steps {step + 1} to {step + 2}," in resumed.stderr
    assert last_line(resumed) == f"stage-2 run: {project / 'runs/stage2'}"
    steps = [line["step"] for line in metrics(project / "runs/stage2")]
    assert steps == list(range(1, step + 3))
    message = error_of(project.run(*samples[0]))
    assert f"step: {step} there, {step + 2} now" in message


@pytest.fixture(scope="module")
def photos(project):
    """A folder of three images of different shapes in sub-folders."""
    noise = np.random.default_rng(0)
    shapes = {"a/wide.png": (40, 70), "a/b/tall.png": (90, 60), "c/square.bmp": (SIZE, SIZE)}
    for name, shape in shapes.items():
        path = project / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(path)
    return project / "photos"


def reconstruct(project, workdir, path, *overrides):
    arguments = project.tool("reconstruct", "reconstruction", workdir, *overrides)
    return succeeded(project.run(*arguments, f"--config.input={path}"))


def overview(folder: pathlib.Path, columns: int) -> np.ndarray:
    """The images of `side_by_side.png`, [2, columns, SIZE, SIZE, 3]."""
    picture = pixels(folder / "side_by_side.png")
    step = SIZE + 2
    assert picture.shape == (2 + 2 * step, 2 + columns * step, 3)
    cells = picture[2:, 2:].reshape(2, step, columns, step, 3)
    return cells.transpose(0, 2, 1, 3, 4)[:, :, :SIZE, :SIZE]


def test_one_image_is_reconstructed_squashed(project, stage1, photos):
    process = reconstruct(project, "runs/one", photos / "a/wide.png", "--config.crop=squash")
    folder = project / "runs/one"
    assert last_line(process) == f"reconstructions: {folder}, an overview in side_by_side.png"
    ((original,), (reconstruction,)) = overview(folder, 1)
    wide = Image.fromarray(pixels(photos / "a/wide.png"))
    np.testing.assert_array_equal(original, np.asarray(wide.resize((SIZE, SIZE))))
    np.testing.assert_array_equal(reconstruction, pixels(folder / "wide.png"))


def test_a_folder_of_images_is_reconstructed_from_their_middles(project, stage1, photos):
    reconstruct(project, "runs/many", "photos")
    folder = project / "runs/many"
    names = ["a/b/tall.png", "a/wide.png", "c/square.png"]
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == [*names, "config.json", "side_by_side.png"]
    originals, reconstructions = overview(folder, 3)
    np.testing.assert_array_equal(originals[2], pixels(photos / "c/square.bmp"))
    middle = Image.fromarray(pixels(photos / "a/wide.png")[:, 15:55]).resize((SIZE, SIZE))
    # Not the same: there the image is enlarged first, so that its edges know their neighbours.
    inner = slice(4, -4)
    np.testing.assert_array_equal(originals[1][inner, inner], np.asarray(middle)[inner, inner])
    for name, image in zip(names, reconstructions, strict=True):
        np.testing.assert_array_equal(pixels(folder / name), image)


def test_the_demo_goes_on_where_it_was_and_does_nothing_when_finished(project):
    arguments = (
        "tools/demo.py",
        *TINY["demo"],
        "--config.stage1.duration=300 steps",
        "--config.stage2.duration=3 steps",
    )
    folder = project / "runs/demo"
    process = interrupted(project.start(*arguments), folder / "stage1", 3)
    assert process.returncode == 75, process.stderr
    assert "start again to go on from there" in process.stderr
    assert not (folder / "metrics.json").exists()
    finished = succeeded(project.run(*arguments))
    assert [line["step"] for line in metrics(folder / "stage1")] == list(range(1, 301))
    check_samples(folder)
    for name in ("reconstructions.png", "losses.png", "guided/samples.png"):
        assert pixels(folder / name).std() > 0
    json.loads((folder / "metrics.json").read_text())
    assert last_line(finished) == f"pictures, samples and checkpoints are in {folder}"
    before = contents(folder)
    again = succeeded(project.run(*arguments))
    assert f"the demo in {folder} is finished" in again.stdout
    assert contents(folder) == before


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_help_shows_what_the_tool_does_and_its_flags(tmp_path, path):
    project = Project(tmp_path)
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    for flag in ("--help", "--helpshort"):
        process = project.run(f"tools/{path.name}", flag)
        shown = " ".join(process.stdout.split())
        assert " ".join(docstring.split()) in shown
        common = ("config", "workdir")
        own = {"benchmark": ("output",), "compile_for_topology": ("config", "topology")}
        for name in own.get(path.stem, ("source",) if path.stem in WITHOUT_CONFIG else common):
            assert f"--{name}:" in shown
        assert process.stderr == ""
