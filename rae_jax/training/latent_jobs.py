"""Jobs over the latents of a whole data set."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from rae_jax import build
from rae_jax.checkpointing.experiment import open_workdir
from rae_jax.configuration.schema import StatisticsConfig, as_dict
from rae_jax.layers.functional import split
from rae_jax.monitoring.progress import progress_bar
from rae_jax.ops.images import to_float
from rae_jax.reconstruction.latent_statistics import LatentStatistics, batch_moments
from rae_jax.sharding.processes import require_one_process

STATISTICS_FILE = "latent_statistics.npz"


def compute_statistics(config: StatisticsConfig, workdir: str | pathlib.Path) -> pathlib.Path:
    """Mean and variance of the features of every image, in one pass.

    Does nothing if the folder holds them already.

    Returns:
        Path of the npz with `mean`, `variance` and `count`, see `LatentStatistics.save`.
    """
    require_one_process("computing latent statistics")
    may_change = ("batch_size", "data.num_threads")
    folder = open_workdir(
        workdir,
        "statistics",
        as_dict(config),
        may_change,
        results=[STATISTICS_FILE],
        defaults=as_dict(StatisticsConfig()),
    )
    path = folder / STATISTICS_FILE
    if path.exists():
        logging.info("%s is there already", path)
        return path
    source = build.source(config.data)
    compute = build.Compute(config.dtype)
    encoder = build.encoder(config.autoencoder, compute)
    autoencoder = build.autoencoder(config.autoencoder, encoder, None)
    definition, frozen = split(autoencoder)

    @jax.jit
    def features(frozen, images):
        return definition.merge(frozen).features(to_float(images))

    moments = jax.jit(batch_moments)
    statistics = LatentStatistics.empty(autoencoder.latent_shape(config.data.image_size))
    batch_size = min(config.batch_size, len(source))
    with progress_bar(len(source), description="statistics", unit="image") as bar:
        for batch in build.evaluation_batches(source, config.data, batch_size=batch_size):
            # Rows that only fill up the last batch stand at its end.
            count = int(batch["valid"].sum())
            rows = features(frozen, jnp.asarray(batch["images"]))[:count]
            statistics = statistics.add_moments(count, *map(np.asarray, moments(rows)))
            bar.update(count)
    statistics = dataclasses.replace(statistics, encoder=build.encoder_fingerprint(encoder))
    statistics.save(path)
    return path
