r"""Packs a set of images into one npz in the layout of the ADM evaluation suite.

python tools/pack_images.py --config=configs/evaluation/packing.py --workdir=runs/packed \
    --config.images.path=runs/samples/png
"""

from rae_jax.configuration import flags
from rae_jax.configuration.schema import PackingConfig

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()


def run(config: PackingConfig) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.evaluation import jobs

    print(f"images: {jobs.pack(config, str(_WORKDIR.value))}")


if __name__ == "__main__":
    flags.main(run, PackingConfig)
