"""Trains a decoder on a frozen encoder.

python tools/train_stage1.py --config=configs/smoke/stage1.py --workdir=runs/stage1
"""

from rae_jax.configuration import flags
from rae_jax.configuration.schema import Stage1Config

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()
_WITH_INIT_FROM = flags.define_init_from()
_PROCESSES = flags.define_processes()


def run(config: Stage1Config) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.sharding import processes
    from rae_jax.training import stage1

    with processes.joined(**_PROCESSES()):
        folder = stage1.train(_WITH_INIT_FROM(config), str(_WORKDIR.value))
        if processes.is_main_process():
            print(f"stage-1 run: {folder}")


if __name__ == "__main__":
    flags.main(run, Stage1Config)
