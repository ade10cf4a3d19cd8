"""What users get wrong is told in one line each, by every tool."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.project import PORTING, ROOT, WITHOUT_CONFIG, Project, error_of

pytestmark = pytest.mark.tools

TOOLS = sorted({path.stem for path in (ROOT / "tools").glob("*.py")} - {"demo", *WITHOUT_CONFIG})
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.py"))
IMAGES = ("--config.data.source=image_folder", "--config.data.crop=center")


@pytest.fixture(scope="module")
def project(tmp_path_factory, runs):
    """Finished runs, damaged runs and pictures in `runs/` and beside it."""
    project = Project(tmp_path_factory.mktemp("project"))
    shutil.copytree(runs, project / "runs")
    for name in ("nothing/train", "loose", "broken/train/a", "encoder", "stage2_only"):
        (project / name).mkdir(parents=True)
    Image.fromarray(np.zeros((60, 50, 3), np.uint8)).save(project / "loose/photo.png")
    (project / "broken/train/a/broken.png").write_text("no picture")
    (project / "encoder/config.json").write_text('{"model_type": "vit"}')
    moments = np.zeros((2, 2, 8))
    np.savez(project / "other_shape.npz", mean=moments, variance=moments, count=1)
    note = json.loads((project / "runs/stage2/config.json").read_text())
    note["config"]["autoencoder"]["checkpoint"] = ""
    (project / "stage2_only/config.json").write_text(json.dumps(note))
    return project


@pytest.mark.parametrize("tool", TOOLS)
def test_a_missing_config_lists_those_there_are(project, tool):
    message = error_of(project.run(f"tools/{tool}.py", "--workdir=new"))
    assert message == f"--config is missing; pass one of: {', '.join(CONFIGS)}"


@pytest.mark.parametrize("tool", sorted({*TOOLS} - {"compile_for_topology"}))
def test_a_missing_workdir_is_told(project, tool):
    process = project.run(f"tools/{tool}.py", "--config=configs/smoke/stage1.py")
    assert error_of(process) == "--workdir is missing; pass the folder that this run may write to"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--config=configs/smoke/staeg1.py",),
            "--config=configs/smoke/staeg1.py does not exist: did you mean 'configs/smoke/st",
        ),
        (
            ("--config.optimiser.learning_rate=1",),
            "unknown key --config.optimiser.learning_rate: did you mean 'optimizer.learning_rate'?",
        ),
        (("--config.seed=one",), "flag --config.seed=one: invalid literal for int()"),
        (("--config.duration=five steps",), "duration must be a number and a unit, such as"),
        (("--config.schedule.kind=cosin",), "schedule.kind must be one of ('cosine', "),
    ],
)
def test_wrong_flags_of_training(project, arguments, message):
    base = ("--config=configs/smoke/stage1.py", "--workdir=new")
    assert error_of(project.run("tools/train_stage1.py", *base, *arguments)).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config=configs/smoke/stage2.py",), "--topology is missing; pass one such as v5e:16x1"),
        (
            ("--config=configs/smoke/stage2.py", "--topology=v9:4"),
            "--topology must be KIND:SIDExSIDE with one of v5e, v5p, v6e, tpu7x, such as 'v5e:16x",
        ),
        (
            ("--config=configs/smoke/statistics.py", "--topology=cpu:2"),
            "--config must have the keys of one of Stage1Config, Stage2Config, SamplingConfig, got",
        ),
        (
            (
                "--config=configs/smoke/sampling.py",
                "--config.checkpoint=runs/x",
                "--topology=cpu:2",
            ),
            "--denoiser must name the config of the run in runs/x, as there is no single configs/",
        ),
        (
            ("--config=configs/stage2/dit_dh_xl_dinov2_base.py", "--topology=cpu:3"),
            "global_batch_size must be a multiple of mesh.data x mesh.fsdp = 3, got 1024; the ne",
        ),
        (
            (
                *("--config=configs/stage2/dit_dh_xl_dinov2_base.py", "--topology=cpu:256"),
                *("--config.mesh.data=1", "--config.mesh.fsdp=256"),
            ),
            "mesh.fsdp must divide the widths of the model; 256 divides none that it could cut of",
        ),
    ],
)
def test_what_cannot_be_compiled_for_a_topology(project, arguments, message):
    process = project.run("tools/compile_for_topology.py", *arguments)
    assert error_of(process).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.sed=1", "unknown key --config.sed: did you mean 'seed'?"),
        ("--config.seed=one", "flag --config.seed=one: invalid literal for int()"),
        ("--config.stage2.ema_decay=2.0", "stage2.ema_decay must be at least 0 and below 1"),
    ],
)
def test_wrong_overrides_of_the_default_config(project, override, message):
    process = project.run("tools/demo.py", "--workdir=new", override)
    assert error_of(process).startswith(message)


STAGE1, STAGE2 = ("train_stage1", "stage1", "new"), ("train_stage2", "stage2", "new")
NO_DECODER = "--config.autoencoder.checkpoint="
SAMPLE = ("sample", "sampling", "new")
RECONSTRUCT = ("reconstruct", "reconstruction", "new")
CACHE = ("cache_latents", "cache", "new")
CACHED = "--config.data.source=cached_latents"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*STAGE1, *IMAGES, "--config.data.path=absent"), "no image folder absent"),
        ((*STAGE1, *IMAGES, "--config.data.path=nothing"), "no images in nothing/train; accepted"),
        (
            (*STAGE1, *IMAGES, "--config.data.path=broken"),
            "cannot read image broken/train/a/broken.png: ",
        ),
        (
            (*STAGE1, "--config.autoencoder.encoder.path=./absent"),
            "'./absent' is neither a folder, nor a hub repository 'owner/name', nor 'builtin:NAME'",
        ),
        ((*STAGE1, "--config.autoencoder.encoder.path=loose"), "no file at loose/config.json"),
        (
            (*STAGE1, "--config.autoencoder.encoder.path=encoder"),
            "encoder/config.json: model_type 'vit' is not supported; did you mean 'vit_mae'?",
        ),
        (
            (*STAGE2, NO_DECODER, "--config.autoencoder.statistics=absent.npz"),
            "no latent statistics at absent.npz; compute them or correct the path",
        ),
        (
            (*STAGE2, NO_DECODER, "--config.autoencoder.statistics=other_shape.npz"),
            "the latent statistics must have the latents' shape (3, 3, 64) (h, w, C), got (2, 2, 8",
        ),
        (
            (*STAGE2, "--config.denoiser.num_classes=5"),
            "the images have 10 classes, but denoiser.num_classes is 5; set denoiser.num_classes=",
        ),
        (
            (*CACHE, "--config.autoencoder.statistics=absent.npz"),
            "no latent statistics at absent.npz; compute them or correct the path",
        ),
        (
            (*STAGE1, CACHED, "--config.data.path=loose"),
            "data.source 'cached_latents' holds latents, which stage 2 alone trains on; name a",
        ),
        (
            (*STAGE2, CACHED, "--config.data.path=loose"),
            "no manifest.json in loose; cache latents with tools/cache_latents.py, or let it fin",
        ),
        (("train_stage2", "stage2", "runs/stage1"), "{folder}/runs/stage1 holds a run of kind 'st"),
        ((*SAMPLE, "--config.checkpoint="), "checkpoint is not set; set --config.checkpoint to "),
        ((*SAMPLE, "--config.checkpoint=absent"), "no folder {folder}/absent; give the --workdir"),
        ((*SAMPLE, "--config.checkpoint=loose"), "no run in {folder}/loose: it has no config.json"),
        ((*SAMPLE, "--config.checkpoint=runs/stage1"), "runs/stage1 must hold a run of stage2, it"),
        (
            (*SAMPLE, "--config.checkpoint=stage2_only"),
            "the stage-2 run in stage2_only has no decoder, so its samples cannot become images",
        ),
        (
            (*SAMPLE, "--config.labels=3,8-10"),
            "labels must be below the model's 10 classes, got 10",
        ),
        (
            (*SAMPLE, "--num_processes=2", "--process_id=0"),
            "coordinator_address, num_processes and process_id must be given together; missing: ",
        ),
        (RECONSTRUCT, "input is not set; set --config.input to an image or a folder"),
        ((*RECONSTRUCT, "--config.input=absent"), "no image and no folder of images at absent"),
        (
            (*RECONSTRUCT, "--config.input=broken"),
            "cannot read image broken/train/a/broken.png: ",
        ),
        (
            ("reconstruct", "reconstruction", "loose", "--config.input=loose/photo.png"),
            "the reconstruction of photo.png would replace an original in {folder}/loose; use",
        ),
    ],
)
def test_what_cannot_work_is_told_in_one_line(project, arguments, message):
    process = project.run(*project.tool(*arguments))
    told = error_of(process)
    assert told.startswith(message.format(folder=project.folder))
    assert len(told.splitlines()) == 1


def test_another_experiment_is_told_apart_by_its_settings(project):
    arguments = project.tool("train_stage1", "stage1", "runs/stage1", "--config.seed=7")
    first, *settings, last = error_of(project.run(*arguments)).splitlines()
    assert first == f"{project / 'runs/stage1'} holds a run with other settings:"
    assert "  seed: 0 there, 7 now" in settings
    assert not any("duration" in line for line in settings)
    assert last.startswith("set them back to go on with that run, or use another --workdir")


def test_a_batch_that_does_not_divide_over_the_devices(project, monkeypatch):
    monkeypatch.setitem(
        project.environment, "XLA_FLAGS", "--xla_force_host_platform_device_count=3"
    )
    message = error_of(project.run(*project.tool("train_stage1", "stage1", "undivided")))
    assert message.startswith("global_batch_size must be a multiple of mesh.data x mesh.fsdp = 3,")
    assert not (project / "undivided").exists()


CONVERT, EXPORT, INSPECT = (f"tools/{name}.py" for name in PORTING)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((CONVERT,), "--kind is missing"),
        ((CONVERT, "--kind=vit"), "--source is missing"),
        ((CONVERT, "--config.seed=1"), "--config is missing; pass one of: configs/"),
        ((CONVERT, "--config=absent.py"), "--config=absent.py does not exist: "),
        (
            (CONVERT, "--kind=decoder", "--source=absent.pt", "--output=ported", "--model=vit_b"),
            "no weight file at absent.pt",
        ),
        (
            (CONVERT, "--kind=statistics", "--source=loose", "--output=runs"),
            "runs is there already; name another, or remove it",
        ),
        (
            (EXPORT, "--kind=decoder", "--source=loose", "--output=new.pt"),
            "no run in {folder}/loose: it has no config.json; give the --workdir of one",
        ),
        ((INSPECT,), "--source is missing; name a file or folder"),
        ((INSPECT, "--source=broken/train/a/broken.png"), "broken/train/a/broken.png is not a com"),
        ((INSPECT, "--source=loose", "--statistic"), "Unknown command line flag 'statistic'. Did "),
    ],
)
def test_what_cannot_be_ported_is_told_in_one_line(project, arguments, message):
    told = error_of(project.run(*arguments))
    assert told.startswith(message.format(folder=project.folder))
    assert len(told.splitlines()) == 1
