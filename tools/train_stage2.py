"""Trains a denoiser on the latents of a frozen autoencoder.

python tools/train_stage2.py --config=configs/smoke/stage2.py --workdir=runs/stage2
"""

from rae_jax.configuration import flags
from rae_jax.configuration.schema import Stage2Config

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()
_WITH_INIT_FROM = flags.define_init_from()
_PROCESSES = flags.define_processes()


def run(config: Stage2Config) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.sharding import processes
    from rae_jax.training import stage2

    with processes.joined(**_PROCESSES()):
        folder = stage2.train(_WITH_INIT_FROM(config), str(_WORKDIR.value))
        if processes.is_main_process():
            print(f"stage-2 run: {folder}")


if __name__ == "__main__":
    flags.main(run, Stage2Config)
