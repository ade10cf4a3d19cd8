"""What users get wrong with the tools that prepare, convert and measure, told in one line each."""

import numpy as np
import pytest
from PIL import Image

from tests.project import Project, error_of


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    for name in ("nothing", "loose", "full", "broken/train/a"):
        (project / name).mkdir(parents=True)
    Image.fromarray(np.zeros((60, 50, 3), np.uint8)).save(project / "loose/photo.png")
    (project / "full/notes.txt").write_text("mine")
    (project / "broken/train/a/broken.png").write_text("no picture")
    np.savez(project / "data.npz", numbers=np.arange(3))
    return project


PREPARE, CONVERT_CONFIG, BENCHMARK = (
    f"tools/{name}.py" for name in ("prepare_dataset", "convert_config", "benchmark")
)


def check(project, arguments, message):
    told = error_of(project.run(*arguments))
    assert told.startswith(message)
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PREPARE,), "--source is missing; name a folder"),
        (
            (PREPARE, "--source=broken", "--output=new", "--num_workers=0"),
            "cannot read image train/a/broken.png: no format that PIL knows; that is one more than",
        ),
        ((CONVERT_CONFIG,), "--source is missing; name a file"),
        ((CONVERT_CONFIG, "--source=absent.yaml", "--output=new.py"), "no file absent.yaml"),
        ((BENCHMARK,), "name what to measure, or pass --all: encode, decode, denoise, train-s"),
        ((BENCHMARK, "date"), "unknown part 'date': did you mean 'data'?"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(project, arguments, message):
    check(project, arguments, message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PREPARE, "--source=loose"), "--output is missing; name a folder"),
        ((PREPARE, "--source=absent", "--output=new"), "no image folder absent"),
        ((PREPARE, "--source=nothing", "--output=new"), "no images in nothing; accepted are "),
        ((PREPARE, "--source=loose", "--output=full"), "full is not empty, and no packing was beg"),
        (
            (PREPARE, "--source=loose", "--output=new", "--center_crop=8", "--shorter_side=8"),
            "center_crop and shorter_side exclude each other; set one of them",
        ),
        (
            (PREPARE, "--source=builtin:digits/validation", "--output=new"),
            "the digits have the splits ('train', 'test'), got 'validation'",
        ),
        ((CONVERT_CONFIG, "--source=data.npz", "--output=new.py"), "data.npz is not YAML: "),
        ((CONVERT_CONFIG, "--source=a", "--output=data.npz"), "data.npz is there already; name an"),
        ((BENCHMARK, "data", "--images=0"), "--images must be at least 1, got 0"),
        ((BENCHMARK, "data", "--folder=absent"), "no image folder absent"),
        ((BENCHMARK, "data", "--peer=absent.py"), "no file absent.py"),
        ((BENCHMARK,), "name what to measure, or pass --all: encode, decode, denoise, train-s"),
        ((BENCHMARK, "encod"), "unknown part 'encod': did you mean 'encode'?"),
        ((BENCHMARK, "encode", "--peer=torch"), "peers are in tests/benchmarking/peers, which"),
    ],
)
def test_more_that_cannot_work(project, arguments, message):
    check(project, arguments, message)
