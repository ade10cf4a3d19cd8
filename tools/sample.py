r"""Generates images with the denoiser of a stage-2 run, on one device or on many hosts.

python tools/sample.py --config=configs/smoke/sampling.py --workdir=runs/samples \
    --config.checkpoint=runs/stage2
"""

from rae_jax.configuration import flags
from rae_jax.configuration.schema import SamplingConfig

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()
_PROCESSES = flags.define_processes()


def run(config: SamplingConfig) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.sampling import samples
    from rae_jax.sharding import processes

    with processes.joined(**_PROCESSES()):
        path = samples.make_samples(config, str(_WORKDIR.value))
        if processes.is_main_process():
            print(f"samples: {path}")


if __name__ == "__main__":
    flags.main(run, SamplingConfig)
