r"""Scores reconstructions against their originals: PSNR, SSIM, LPIPS, rFID.

python tools/evaluate_reconstruction.py --config=configs/evaluation/reconstruction256.py \
    --workdir=runs/scores --config.checkpoint=runs/stage1

Reconstructions are an npz or a folder, in the order of the originals, or made by the autoencoder
of a stage-1 run.
"""

from rae_jax.configuration import flags
from rae_jax.configuration.schema import ReconstructionEvaluationConfig

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()
_PROCESSES = flags.define_processes()


def run(config: ReconstructionEvaluationConfig) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.evaluation import reconstruction
    from rae_jax.sharding import processes

    with processes.joined(**_PROCESSES()):
        result = reconstruction.evaluate(config, str(_WORKDIR.value))
        if processes.is_main_process():
            print(result.table())


if __name__ == "__main__":
    flags.main(run, ReconstructionEvaluationConfig)
