"""Trains a decoder on a frozen encoder.

python tools/train_stage1.py --config=configs/smoke/stage1.py --workdir=runs/stage1
"""

from rae_jax.configuration import flags
from rae_jax.configuration.schema import Stage1Config

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()


def run(config: Stage1Config) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.training import stage1

    folder = stage1.train(config, str(_WORKDIR.value))
    print(f"stage-1 run: {folder}")


if __name__ == "__main__":
    flags.main(run, Stage1Config)
