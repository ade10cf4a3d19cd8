r"""Computes mean and variance of the latents that stage 2 normalises with.

python tools/compute_latent_statistics.py --config=configs/smoke/statistics.py \
    --workdir=runs/statistics
"""

from rae_jax.configuration import flags
from rae_jax.configuration.schema import StatisticsConfig

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()


def run(config: StatisticsConfig) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.training import latent_jobs

    path = latent_jobs.compute_statistics(config, str(_WORKDIR.value))
    print(f"latent statistics: {path}")


if __name__ == "__main__":
    flags.main(run, StatisticsConfig)
