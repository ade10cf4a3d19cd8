"""Trains the demo's MAE encoder by masked reconstruction; the result is bundled with the package.

python tools/pretrain_demo_encoder.py --config=configs/smoke/encoder.py --workdir=runs/encoder
"""

from rae_jax.configuration import flags
from rae_jax.configuration.schema import PretrainingConfig

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()


def run(config: PretrainingConfig) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.training import pretraining

    folder = pretraining.train(config, str(_WORKDIR.value))
    print(f"encoder: {folder}")


if __name__ == "__main__":
    flags.main(run, PretrainingConfig)
