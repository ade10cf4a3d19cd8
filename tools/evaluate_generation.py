r"""Scores generated images against real ones: FID, sFID, Inception Score, precision, recall, KID.

python tools/evaluate_generation.py --config=configs/evaluation/imagenet256.py \
    --workdir=runs/scores --config.samples.path=runs/samples

Samples are an npz, a folder of images, a work folder of sample.py, or made of a checkpoint; the
reference is an npz of statistics or images, a folder or a data set. docs/evaluation.md tells which
files published scores need.
"""

from rae_jax.configuration import flags
from rae_jax.configuration.schema import GenerationEvaluationConfig

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()
_PROCESSES = flags.define_processes()


def run(config: GenerationEvaluationConfig) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.evaluation import generation
    from rae_jax.sharding import processes

    with processes.joined(**_PROCESSES()):
        result = generation.evaluate(config, str(_WORKDIR.value))
        if processes.is_main_process():
            print(result.table())


if __name__ == "__main__":
    flags.main(run, GenerationEvaluationConfig)
