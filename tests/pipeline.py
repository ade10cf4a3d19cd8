"""Tiny runs of both stages on the built-in digits, and what comes after them."""

import dataclasses
import pathlib
import runpy

from rae_jax.configuration import schema
from rae_jax.configuration.schema import (
    AutoencoderConfig,
    LoopConfig,
    SamplingConfig,
    Stage1Config,
    Stage2Config,
    StatisticsConfig,
)
from rae_jax.training import latent_jobs
from rae_jax.training import stage1 as first_stage
from rae_jax.training import stage2 as second_stage

CONFIGS = pathlib.Path(__file__).parents[1] / "configs" / "smoke"
STEPS = 4
LOOP = LoopConfig(
    log_every="1 steps", checkpoint_every="2 steps", preview_every="4 steps", writers=("jsonl",)
)


def smoke(name: str, cls: type) -> schema.Section:
    """A config of configs/smoke."""
    return schema.parse(cls, runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]())


def stage1(steps: int = STEPS, **changes) -> Stage1Config:
    config = smoke("stage1", Stage1Config)
    decoder = dataclasses.replace(
        config.autoencoder.decoder, hidden_size=16, depth=1, num_heads=2, intermediate_size=24
    )
    changes = {
        "autoencoder": dataclasses.replace(config.autoencoder, decoder=decoder),
        "global_batch_size": 8,
        "duration": f"{steps} steps",
        "loop": LOOP,
        **changes,
    }
    return dataclasses.replace(config, **changes)


def statistics(**changes) -> StatisticsConfig:
    config = smoke("statistics", StatisticsConfig)
    return dataclasses.replace(config, autoencoder=stage1().autoencoder, **changes)


def autoencoder(folder: pathlib.Path) -> AutoencoderConfig:
    """That of the runs in `folder`."""
    return dataclasses.replace(
        stage1().autoencoder,
        checkpoint=str(folder / "stage1"),
        statistics=str(folder / "statistics" / "latent_statistics.npz"),
    )


def stage2(folder: pathlib.Path, steps: int = STEPS, **changes) -> Stage2Config:
    config = smoke("stage2", Stage2Config)
    denoiser = dataclasses.replace(
        config.denoiser,
        backbone_hidden_size=16,
        backbone_depth=1,
        backbone_num_heads=2,
        head_hidden_size=16,
        head_depth=1,
        head_num_heads=2,
    )
    changes = {
        "autoencoder": autoencoder(folder),
        "denoiser": denoiser,
        "global_batch_size": 8,
        "duration": f"{steps} steps",
        "ema_decay": 0.5,
        "unroll": 1,
        "loop": LOOP,
        **changes,
    }
    return dataclasses.replace(config, **changes)


def sampling(folder: pathlib.Path, **changes) -> SamplingConfig:
    config = smoke("sampling", SamplingConfig)
    sampler = dataclasses.replace(config.sampler, num_steps=3)
    changes = {
        "checkpoint": str(folder / "stage2"),
        "num_images": 20,
        "batch_size": 8,
        "sampler": sampler,
        **changes,
    }
    return dataclasses.replace(config, **changes)


def train_all(folder: pathlib.Path) -> None:
    """Both stages and the statistics between them."""
    first_stage.train(stage1(), folder / "stage1")
    latent_jobs.compute_statistics(statistics(), folder / "statistics")
    second_stage.train(stage2(folder), folder / "stage2")
