r"""Computes mean and variance of the latents that stage 2 normalises with.

python tools/compute_latent_statistics.py --config=configs/smoke/statistics.py \
    --workdir=runs/statistics

On one device or on many hosts, and again after any interruption: the result is the same.
"""

from rae_jax.configuration import flags
from rae_jax.configuration.schema import StatisticsConfig

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()
_PROCESSES = flags.define_processes()


def run(config: StatisticsConfig) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.sharding import processes
    from rae_jax.training import latent_jobs

    with processes.joined(**_PROCESSES()):
        path = latent_jobs.compute_statistics(config, str(_WORKDIR.value))
        if processes.is_main_process():
            print(f"latent statistics: {path}")


if __name__ == "__main__":
    flags.main(run, StatisticsConfig)
