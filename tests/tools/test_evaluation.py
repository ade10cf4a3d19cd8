"""What users of the evaluation tools get wrong is told in one line."""

import numpy as np
import pytest

from tests.project import Project, error_of

pytestmark = pytest.mark.tools


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    np.savez(project / "floats.npz", arr_0=np.zeros((4, 8, 8, 3)))
    return project


@pytest.mark.parametrize(
    ("tool", "config", "overrides", "message"),
    [
        (
            "evaluate_generation",
            "evaluation/imagenet256",
            (),
            "no file pt_inception-2015-12-05-6726825d.pth, which must be pt_inception-2015",
        ),
        (
            "evaluate_generation",
            "smoke/evaluation",
            ("--config.samples.path=floats.npz",),
            "floats.npz: arr_0 must be uint8 [N, H, W, 3], got float64 from 0 to 0",
        ),
        (
            "evaluate_reconstruction",
            "smoke/reconstruction_evaluation",
            ("--config.checkpoint=absent",),
            "'absent' is neither a folder, nor a hub repository",
        ),
        (
            "compute_reference_statistics",
            "smoke/reference",
            ("--config.images.path=absent",),
            "no images at absent; name an npz, or a folder of images",
        ),
        (
            "pack_images",
            "evaluation/packing",
            ("--config.images.data.crop=random",),
            "images.data.crop must be 'center' or 'none' and data.horizontal_flip False",
        ),
    ],
)
def test_what_cannot_work_is_told_in_one_line(project, tool, config, overrides, message):
    arguments = (f"--config=configs/{config}.py", "--workdir=runs/new", *overrides)
    told = error_of(project.run(f"tools/{tool}.py", *arguments))
    assert told.startswith(message)
    assert len(told.splitlines()) == 1
    assert not (project / "runs").exists()
