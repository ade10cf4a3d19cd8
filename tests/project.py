"""A place to run tools as a user does: processes of their own, in a folder like the repository."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping

ROOT = pathlib.Path(__file__).parents[1]

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    # Most of the time of a tiny run is compilation: quick and careless here, and kept, because
    # many of the runs compile the same.
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONPATH": str(ROOT),
}

_DECODER = (
    "--config.autoencoder.decoder.hidden_size=32",
    "--config.autoencoder.decoder.depth=1",
    "--config.autoencoder.decoder.intermediate_size=64",
)
_TRAINING = ("--config.global_batch_size=8", "--config.loop.log_every=1 steps")
_STAGE1 = (*_TRAINING, *_DECODER)
_STAGE2 = (
    *_STAGE1,
    "--config.denoiser.backbone_hidden_size=32",
    "--config.denoiser.backbone_depth=1",
    "--config.denoiser.head_hidden_size=32",
    "--config.unroll=1",
)
_SAMPLING = (
    "--config.num_images=20",
    "--config.batch_size=10",
    "--config.sampler.num_steps=3",
)


def _section(name: str, overrides: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text.replace("--config.", f"--config.{name}.", 1) for text in overrides)


TINY = {
    "demo": (
        *_section("stage1", _STAGE1),
        *_section("stage2", _STAGE2),
        *_section("sampling", _SAMPLING),
        *_section("guided", _SAMPLING),
    ),
    "pretrain_demo_encoder": _TRAINING,
    "train_stage1": _STAGE1,
    "compute_latent_statistics": (),
    "cache_latents": (),
    "train_stage2": _STAGE2,
    "sample": _SAMPLING,
    "reconstruct": (),
}
"""Overrides of the smoke configs that make each tool quick, but for the number of steps."""


PORTING = ("convert_weights", "export_weights", "inspect_checkpoint")
"""Tools that take published weights."""

WITHOUT_CONFIG = (*PORTING, "prepare_dataset", "convert_config", "benchmark")
"""Tools that need neither a config nor a work folder."""


class Project:
    """A folder with `configs/` and `tools/`, as a clone has them, to run commands in.

    Attributes:
        folder: What relative paths of commands stand in.
        environment: Variables of the processes.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("configs", "tools"):
            (folder / name).symlink_to(ROOT / name)
        self.environment = {**os.environ, **ENVIRONMENT}

    def __truediv__(self, path: str) -> pathlib.Path:
        return self.folder / path

    def start(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen:
        """Starts `python ARGUMENTS`, with variables besides those of the project."""
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**self.environment, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Runs `python ARGUMENTS` to its end."""
        return completed(self.start(*arguments))

    def tool(self, name: str, config: str, workdir: str, *overrides: str) -> list[str]:
        """Arguments of a tool with a smoke config, made tiny."""
        return [
            f"tools/{name}.py",
            f"--config=configs/smoke/{config}.py",
            f"--workdir={workdir}",
            *TINY[name],
            *overrides,
        ]


def completed(process: subprocess.Popen, timeout: float = 240) -> subprocess.CompletedProcess:
    """What a started process has said when it has ended."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def succeeded(process: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    """The process, if it ended well."""
    assert process.returncode == 0, f"{process.args}\n{process.stdout}\n{process.stderr}"
    return process


def error_of(process: subprocess.CompletedProcess) -> str:
    """Message of a process that ended with an error the user can put right, and nothing else."""
    assert process.returncode == 2, f"{process.args}\n{process.stdout}\n{process.stderr}"
    assert process.stdout == ""
    lines = process.stderr.splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    assert len(starts) == 1, process.stderr
    assert "Traceback" not in process.stderr, process.stderr
    return "\n".join(lines[starts[0] :]).removeprefix("error: ")
