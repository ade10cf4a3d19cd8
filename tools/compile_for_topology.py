r"""Compiles a training step or the sampler for a TPU slice that is not at hand.

python tools/compile_for_topology.py --config=configs/stage2/dit_dh_xl_dinov2_base.py \
    --topology=v5e:16x16 --config.dtype=bfloat16 --config.mesh.data=16 --config.mesh.fsdp=16

Takes configs of stage 1, stage 2 and sampling. Neither weights nor data nor runs are read; needs
libtpu (pip install "rae_jax[tpu]") and no TPU. Prints what the step takes of the memory of each
device, its operations and exchanges, and how long they take at least; see docs/tpu.md.

A config of sampling names runs. Their configs are those called like the folders, or of the flags
--denoiser and --guide.
"""

import os
import pathlib
import shlex
import sys
from typing import Any

from absl import flags as absl_flags

from rae_jax.configuration import flags
from rae_jax.configuration.schema import (
    ConfigError,
    SamplingConfig,
    Stage1Config,
    Stage2Config,
    parse,
)

_CONFIG = flags.define_config()
_TOPOLOGY = absl_flags.DEFINE_string(
    "topology", None, "Slice: v5e:16x16, v6e:8x8, v5p:4x4x4, tpu7x:4x4x4, ..., or cpu:N."
)
_OUTPUT = absl_flags.DEFINE_string("output", "", "JSON file to write; none without.")
_TRIES = absl_flags.DEFINE_integer(
    "tries", 3, "Changes to compile at most where the program does not fit."
)
_DENOISER = absl_flags.DEFINE_string("denoiser", "", "Sampling: config of the stage-2 run.")
_GUIDE = absl_flags.DEFINE_string("guide", "", "Sampling: config of the guide's run.")
_DTYPE = absl_flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Sampling: in place of that of the runs' configs."
)


def run() -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    config = flags.config_of(Stage1Config, Stage2Config, SamplingConfig)
    if _TOPOLOGY.value is None:
        raise ConfigError("--topology is missing; pass one such as v5e:16x16")
    denoiser, guide = None, None
    if isinstance(config, SamplingConfig):
        denoiser = _stage2(_DENOISER.value, config.checkpoint, "--denoiser")
        if config.guidance.method == "autoguidance":
            guide = _stage2(_GUIDE.value, config.guidance.checkpoint, "--guide")
    # Else JAX would look for TPUs of this machine, where libtpu is installed.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from rae_jax.benchmarking import fitting, programs, report, topology

    where = topology.topology(_TOPOLOGY.value)

    def program(config: Any) -> programs.Program:
        if denoiser is None:
            return programs.training(config, where.devices)
        return programs.sampling(config, denoiser, guide, where.devices)

    compiled = topology.compile_for(program(config), where)
    print(topology.text(compiled))
    rows = [compiled.row]
    if not compiled.fits and _TRIES.value:
        for overrides, tried in fitting.fitting(config, program, where, tries=_TRIES.value):
            words = " ".join(f"--config.{name}={value}" for name, value in overrides.items())
            print(f"\n{words}: {'fits' if tried.fits else 'does not fit'}", flush=True)
            rows.append({**tried.row, "overrides": words})
            if tried.fits:
                print(topology.text(tried))
    if _OUTPUT.value:
        command = shlex.join(["python", *sys.argv])
        report.write(_OUTPUT.value, command, {"compile_for_topology": rows})


def _stage2(path: str, folder: str, flag: str) -> Stage2Config:
    """Config of the run in `folder`, which is called like its config, or the file that is named."""
    if not path:
        name = f"{pathlib.Path(folder).name}.py"
        found = sorted(flags.CONFIGS.glob(f"**/{name}"))
        if len(found) != 1:
            raise ConfigError(
                f"{flag} must name the config of the run in {folder or 'checkpoint'}, as there is "
                f"no single {flags.CONFIGS}/**/{name}"
            )
        path = str(found[0])
    config = flags.load_config(path)
    if _DTYPE.value:
        config.dtype = _DTYPE.value
    return parse(Stage2Config, config)


if __name__ == "__main__":
    flags.launch(run)
