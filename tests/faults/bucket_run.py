"""Both stages, the statistics between them and samples, all below one folder: `BASE RESULT`.

Started again it goes on where it was ended. In the end the results, read back from `BASE`, go into
a local npz.
"""

import sys

import numpy as np
from absl import logging

from rae_jax.checkpointing.experiment import checkpoint_folder
from rae_jax.checkpointing.partial_restore import latest_step, read_arrays
from rae_jax.files import absolute
from rae_jax.reconstruction.latent_statistics import LatentStatistics
from rae_jax.sampling import samples
from rae_jax.training import latent_jobs, stage1, stage2
from tests import pipeline


def main(base: str, result: str) -> None:
    logging.set_verbosity(logging.INFO)
    folder = absolute(base)
    stage1.train(pipeline.stage1(), folder / "stage1")
    latent_jobs.compute_statistics(pipeline.statistics(), folder / "statistics")
    stage2.train(pipeline.stage2(folder), folder / "stage2")
    path = samples.make_samples(pipeline.sampling(folder), folder / "samples")
    arrays = {}
    for stage in ("stage1", "stage2"):
        directory = checkpoint_folder(folder / stage)
        for name, value in read_arrays(directory, latest_step(directory)).items():
            arrays[f"{stage}.{name}"] = value
    statistics = LatentStatistics.load(folder / "statistics" / "latent_statistics.npz")
    with path.open("rb") as file, np.load(file) as made:
        arrays |= {"images": made["arr_0"], "labels": made["arr_1"], "mean": statistics.mean}
    np.savez(result, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
