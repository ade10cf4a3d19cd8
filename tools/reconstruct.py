r"""Sends an image, or a folder of images, through the autoencoder of a stage-1 run and back.

python tools/reconstruct.py --config=configs/smoke/reconstruction.py \
    --workdir=runs/reconstructions --config.checkpoint=runs/stage1 --config.input=photo.png
"""

from rae_jax.configuration import flags
from rae_jax.configuration.schema import ReconstructionConfig

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()


def run(config: ReconstructionConfig) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.sampling import reconstruct

    folder = reconstruct.reconstruct_files(config, str(_WORKDIR.value))
    print(f"reconstructions: {folder}, an overview in {reconstruct.PICTURE}")


if __name__ == "__main__":
    flags.main(run, ReconstructionConfig)
