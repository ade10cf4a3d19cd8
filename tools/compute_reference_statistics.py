r"""Computes statistics of real images that generated or reconstructed ones are scored against.

python tools/compute_reference_statistics.py --config=configs/evaluation/imagenet256_statistics.py \
    --workdir=runs/reference --config.images.data.path=imagenet
"""

from rae_jax.configuration import flags
from rae_jax.configuration.schema import ReferenceStatisticsConfig

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()
_PROCESSES = flags.define_processes()


def run(config: ReferenceStatisticsConfig) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.evaluation import jobs
    from rae_jax.sharding import processes

    with processes.joined(**_PROCESSES()):
        path = jobs.compute_reference(config, str(_WORKDIR.value))
        if processes.is_main_process():
            print(f"reference statistics: {path}")


if __name__ == "__main__":
    flags.main(run, ReferenceStatisticsConfig)
