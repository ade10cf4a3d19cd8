"""YAML files of every shape that the RAE release ships, as configs of ours.

The files beside this one are written from a description of the originals' keys.
"""

import importlib.util
import pathlib
import re
import shlex

import pytest
import yaml

from rae_jax.configuration import defaults
from rae_jax.configuration.section import as_dict, parse
from rae_jax.porting import original_configs
from rae_jax.porting.original_conversion import KINDS
from tests.project import Project, succeeded

FOLDER = pathlib.Path(__file__).parent / "original_configs"
FILES = sorted(FOLDER.glob("*.yaml"))


def load(text: str, folder: pathlib.Path):
    """The config that the text of a config file gives."""
    path = folder / "config_file.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("config_file", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def flat(section, prefix="") -> dict[str, object]:
    found = {}
    for name, value in section.items():
        key = f"{prefix}{name}"
        found |= flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return found


def differences(text: str, kind: str, folder: pathlib.Path) -> dict[str, object]:
    """What a written config file changes in the defaults of its kind."""
    start, cls = KINDS[kind]
    before = flat(as_dict(parse(cls, getattr(defaults, start)())))
    after = flat(as_dict(parse(cls, load(text, folder))))
    return {key: value for key, value in after.items() if before.get(key) != value}


DINOV2 = {
    "autoencoder.encoder.path": "facebook/dinov2-with-registers-base",
    "autoencoder.encoder.input_size": 224,
}
EXPECTED = {
    "stage1_dinov2_base": (
        "stage1",
        {
            **DINOV2,
            "gradient_accumulation": 2,
            "data.num_threads": 8,
            "loop.log_every": "100 steps",
            "loop.checkpoint_every": "2 epochs",
            "loop.preview_every": "2500 steps",
            "seed": 7,
            "evaluation.every": "5000 steps",
            "evaluation.weights": ("ema", "raw"),
            "evaluation.images.data.path": "imagenet/val",
            "evaluation.images.data.split": "",
            "gan.discriminator.path": "models/discs/dino_vit_small_patch8_224.pth",
            "gan.optimizer.learning_rate": 1e-4,
            "gan.schedule.end": "10 epochs",
            "gan.schedule.final_learning_rate": 1e-5,
        },
    ),
    "stage1_only_siglip2": ("reconstruction", {"checkpoint": "runs/decoder"}),
    "stage1_only_mae": ("reconstruction", {"checkpoint": "runs/decoder"}),
    "stage2_dit_dh_xl": (
        "stage2",
        {
            **DINOV2,
            "autoencoder.checkpoint": "runs/decoder",
            "autoencoder.statistics": "runs/latent_statistics.npz",
            "autoencoder.noise_tau": 0.0,
            "data.num_threads": 4,
            "loop.log_every": "100 steps",
            "loop.checkpoint_every": "10 epochs",
            "loop.preview_every": "10000 steps",
            "evaluation.every": "25000 steps",
            "evaluation.reference.path": "VIRTUAL_imagenet256_labeled.npz",
        },
    ),
    "stage2_lightning_flat": (
        "stage2",
        {
            "autoencoder.encoder.path": "facebook/dinov2-with-registers-base",
            "autoencoder.encoder.input_size": 448,
            "autoencoder.statistics": "runs/latent_statistics.npz",
            "autoencoder.noise_tau": 0.0,
            "init_from": "models/stage2_model.pt",
            "data.image_size": 512,
            "data.num_threads": 8,
            "denoiser.kind": "lightning_dit",
            "denoiser.hidden_size": 1152,
            "denoiser.depth": 28,
            "denoiser.num_heads": 16,
            "denoiser.has_sigma": False,
            "denoiser.use_qk_norm": True,
            "denoiser.use_shift": False,
            "transport.path": "gvp",
            "transport.prediction": "noise",
            "transport.loss_weight": "velocity",
            "transport.time_distribution": "uniform",
            "evaluation.sampler.method": "dopri5",
            "evaluation.guidance.method": "classifier_free",
            "evaluation.guidance.scale": 1.5,
            "evaluation.guidance.interval": (0.1, 0.9),
            "duration": "80 epochs",
            "ema_decay": 0.9999,
            "optimizer.clip_norm": 0.0,
            "schedule.kind": "cosine",
            "schedule.warmup": "20 epochs",
            "schedule.end": "80 epochs",
            "loop.checkpoint_every": "5000 steps",
            "preview_guidance.method": "classifier_free",
            "preview_guidance.scale": 4.0,
        },
    ),
    "sampling_autoguidance": (
        "sampling",
        {
            "checkpoint": "runs/denoiser",
            "guidance.method": "autoguidance",
            "guidance.scale": 1.42,
            "guidance.checkpoint": "runs/guide",
        },
    ),
    "sampling_sde": (
        "sampling",
        {
            "checkpoint": "runs/denoiser",
            "sampler.mode": "sde",
            "sampler.method": "heun",
            "sampler.num_steps": 250,
            "guidance.method": "classifier_free",
            "guidance.scale": 2.0,
            "guidance.interval": (0.2, 1.0),
        },
    ),
}


def test_every_file_is_expected():
    assert {path.stem for path in FILES} == set(EXPECTED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_config_says_what_the_file_says(path, tmp_path):
    kind, expected = EXPECTED[path.stem]
    converted = original_configs.convert(str(path))
    assert converted.kind == kind
    assert differences(converted.text, kind, tmp_path) == expected
    # Every key of the file is told of, in the account that people read.
    keys = set(original_configs.read(str(path)))
    assert set(converted.outcomes) == keys
    assert converted.unknown == ()
    told = "\n".join(converted.lines())
    assert all(f"{key} -> " in told for key in keys)


def test_the_keys_of_the_description_are_all_known():
    """Keys that the files here have, as lists to read beside the description."""
    keys = set().union(*(original_configs.read(str(path)) for path in FILES))
    sections = {key.split(".")[0] for key in keys}
    assert sections == {
        *("stage_1", "stage_2", "transport", "sampler", "guidance", "misc"),
        *("training", "eval", "gan"),
    }
    training = {key.split(".")[1] for key in keys if key.startswith("training.")}
    assert training == {
        *("epochs", "global_batch_size", "batch_size", "grad_accum_steps", "ema_decay"),
        *("num_workers", "clip_grad", "log_interval", "checkpoint_interval", "sample_every"),
        *("global_seed", "cfg_scale", "optimizer", "scheduler", "base_lr", "final_lr", "beta"),
        *("wd", "schedule_type", "decay_start_epoch", "decay_end_epoch", "log_every", "ckpt_every"),
    }


def edited(path: pathlib.Path, tmp_path: pathlib.Path, **changes) -> str:
    """A copy of a file with values set at dotted keys; None at the end of a path removes it."""
    content = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *sections, name = key.split("__")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    copy = tmp_path / "edited.yaml"
    copy.write_text(yaml.safe_dump(content))
    return str(copy)


STAGE1, STAGE2 = FOLDER / "stage1_dinov2_base.yaml", FOLDER / "stage2_dit_dh_xl.yaml"
SAMPLING = FOLDER / "sampling_autoguidance.yaml"


def test_unknown_keys_are_named(tmp_path):
    path = edited(STAGE2, tmp_path, training__momentum=0.9, stage_2__params__use_moe=True, extra={})
    converted = original_configs.convert(path)
    names = ("extra", "stage_2.params.use_moe", "training.momentum")
    assert sorted(converted.unknown) == sorted(names)
    told = list(converted.lines())
    for name in names:
        assert f"{name} -> UNKNOWN: nothing became of it" in told
        assert name in converted.text


def test_empty_sections_are_known(tmp_path):
    path = edited(STAGE2, tmp_path, guidance__guidance_model=None, eval={}, gan=None)
    converted = original_configs.convert(path)
    assert converted.unknown == ()
    for key in ("guidance.guidance_model", "eval", "gan"):
        assert converted.outcomes[key] == "nothing: it is empty"


def test_sampling_is_taken_out_of_a_file_of_training(tmp_path):
    path = edited(STAGE2, tmp_path, guidance__scale=1.5, stage_2__ckpt="model.pt")
    converted = original_configs.convert(path, "sampling")
    assert differences(converted.text, "sampling", tmp_path) == {
        "checkpoint": "runs/denoiser",
        "guidance.method": "classifier_free",
        "guidance.scale": 1.5,
    }


def test_autoguidance_in_training_is_told_and_left_out(tmp_path):
    path = edited(STAGE2, tmp_path, guidance__scale=1.5, guidance__method="autoguidance")
    converted = original_configs.convert(path)
    assert converted.outcomes["guidance.method"].startswith("nothing: no guide is at hand in train")
    assert "guidance" not in converted.text


def test_both_spellings_of_the_interval(tmp_path):
    for name, low, high in (("dashes", "t-min", "t-max"), ("underscores", "t_min", "t_max")):
        changes = {"guidance__method": "cfg", "guidance__scale": 2.0}
        content = yaml.safe_load(STAGE2.read_text())
        content["guidance"] = {"method": "cfg", "scale": 2.0, low: 0.25, high: 0.75}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        config = load(original_configs.convert(str(path)).text, tmp_path)
        assert config.evaluation.guidance.interval == (0.25, 0.75), changes


def test_wrong_derived_numbers_of_the_file_are_told(tmp_path):
    # As shipped for 512 pixels: the latents' size is that of 256 pixels.
    path = edited(STAGE2, tmp_path, stage_1__params__encoder_input_size=448)
    converted = original_configs.convert(path)
    outcome = converted.outcomes["misc.latent_size"]
    assert outcome.startswith("nothing: an encoder of patch 14 makes 32 x 32 latents of 448 pixels")
    assert load(converted.text, tmp_path).data.image_size == 512
    path = edited(STAGE2, tmp_path, misc__time_dist_shift_dim=1)
    outcome = original_configs.convert(path).outcomes["misc.time_dist_shift_dim"]
    assert outcome.endswith("here that is not 1")


@pytest.mark.parametrize("path", [SAMPLING, STAGE2], ids=lambda path: path.stem)
def test_the_commands_that_are_named_exist(path, tmp_path):
    project = Project(tmp_path / "project")
    commands = original_configs.convert(str(path)).commands
    assert len(commands) == (4 if path == SAMPLING else 2)
    for command in commands if path == SAMPLING else ():
        _, script, *flags = shlex.split(command)
        succeeded(project.run(script, *flags, "--only_check_args"))


def test_sizes_that_are_not_published_need_a_config(tmp_path):
    path = edited(SAMPLING, tmp_path, stage_2__params__depth=[7, 2])
    (command,) = [c for c in original_configs.convert(path).commands if "runs/denoiser" in c]
    assert "--config=CONFIG_OF_ITS_TRAINING" in command


def test_files_are_written_once(tmp_path):
    output = tmp_path / "configs" / "mine.py"
    converted = original_configs.convert_file(str(STAGE1), str(output))
    assert output.read_text() == converted.text
    assert converted.text.startswith('"""Converted from stage1_dinov2_base.yaml of the RAE release')
    with pytest.raises(FileExistsError, match="is there already"):
        original_configs.convert_file(str(STAGE1), str(output))


@pytest.mark.parametrize(
    ("path", "changes", "message"),
    [
        (STAGE1, {"stage_1__target": "stage1.VAE"}, "stage_1.target: 'stage1.VAE' cannot be conve"),
        (STAGE1, {"stage_1__params__encoder_cls": "CLIP"}, "must be one of Dinov2withNorm, SigLIP"),
        (STAGE1, {"stage_1__params__decoder_config_path": "a/ViTH"}, "one of ViTB, ViTL, ViTXL"),
        (
            STAGE1,
            {"stage_1__params__encoder_config_path": "other"},
            "encoder.path would be 'other'",
        ),
        (STAGE1, {"stage_1__params__reshape_to_2d": False}, "must be True: latents are always gri"),
        (
            STAGE1,
            {"training__optimizer__betas": [0.9]},
            r"training.optimizer.betas: \[0.9\] cannot",
        ),
        (
            STAGE1,
            {"training__epochs": "many"},
            "training.epochs: 'many' cannot be converted: could",
        ),
        (STAGE1, {"training__scheduler__type": "step"}, "must be one of cosine, linear, constant"),
        (STAGE1, {"training__grad_accum_steps": 3}, "global_batch_size must be a multiple of grad"),
        (
            STAGE1,
            {"eval__metrics": ["clip"]},
            "becomes a config of stage1 whose evaluation.metrics",
        ),
        (STAGE1, {"gan__loss__disc_updates": 2}, "must be 1: the discriminator learns once per st"),
        (
            STAGE2,
            {"stage_2__target": "stage2.models.SiT"},
            "must be one of DiTwDDTHead, LightningD",
        ),
        (STAGE2, {"misc__null_label": 0}, "must be 1000: the null label is the one after the clas"),
        (STAGE2, {"misc__latent_size": [768, 16, 8]}, "latents must be square"),
        (
            STAGE2,
            {"misc__num_classes": 10, "misc__null_label": 10},
            "denoiser.num_classes would be 10 by one key and 1000",
        ),
        (STAGE2, {"transport__params__time_dist_type": "beta"}, "must be 'uniform' or such as"),
        (STAGE2, {"sampler__params__reverse": True}, "sampling goes from noise to images"),
        (STAGE2, {"guidance__method": "limited"}, "must be one of cfg, autoguidance"),
        (STAGE2, {"transport__params__path_type": "Cubic"}, "transport.path must be one of"),
    ],
)
def test_what_cannot_be_converted_is_told_with_its_key(path, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        original_configs.convert(edited(path, tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage_1: [", "is not YAML: "),
        ("- 1", r"must hold sections such as stage_1, got \[1\]"),
        ("", "must hold sections such as stage_1, got None"),
        ("misc: {num_classes: 3}", r"must have a section stage_1 or stage_2, it has \['misc'\]"),
    ],
)
def test_what_is_no_such_file(text, message, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        original_configs.convert(str(path))
    with pytest.raises(FileNotFoundError, match="no file absent.yaml"):
        original_configs.convert("absent.yaml")
    with pytest.raises(ValueError, match="kind must be one of stage1, stage2, .* got 'training'"):
        original_configs.convert(str(STAGE1), "training")


def test_written_files_are_formatted_like_the_configs_here():
    for path in FILES:
        for line in original_configs.convert(str(path)).text.splitlines():
            assert len(line) <= 100 or re.match(r"\s+--", line)
