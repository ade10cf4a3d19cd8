"""Jobs that prepare evaluations: statistics of references, and images in one file."""

import pathlib
from collections.abc import Iterator

import numpy as np
from absl import logging

from rae_jax.checkpointing.experiment import open_workdir, require_experiment
from rae_jax.configuration.schema import PackingConfig, ReferenceStatisticsConfig, as_dict
from rae_jax.evaluation.features import make_extractor
from rae_jax.evaluation.images import PACKED, PACKED_FILE, ImageSet, open_set
from rae_jax.evaluation.references import STATISTICS, STATISTICS_FILE, compute
from rae_jax.files import WORK_FOLDER, local_path
from rae_jax.monitoring.progress import progress_bar
from rae_jax.sampling.save import save_npz
from rae_jax.sharding.processes import is_main_process, require_one_process, wait_for_all

_PART = 256


def compute_reference(
    config: ReferenceStatisticsConfig, workdir: str | pathlib.Path
) -> pathlib.Path:
    """Statistics of a set of images as a file; several processes share the work.

    Does nothing if the folder holds them already.

    Returns:
        Path of the npz, see `SetStatistics.save`.

    Raises:
        FileNotFoundError: Images or weights are missing.
        ValueError: They are of the wrong kind, or damaged.
    """
    folder = local_path(workdir, WORK_FOLDER).absolute()
    experiment = (
        STATISTICS,
        as_dict(config),
        ("extractor.rows", "images.data.num_threads"),
        (STATISTICS_FILE,),
    )
    require_experiment(folder, *experiment)
    path = folder / STATISTICS_FILE
    if path.exists():
        logging.info("%s is there already", path)
        return path
    extractor = make_extractor(config.extractor)
    images = open_set(config.images)
    statistics = compute(images, extractor, keep=config.keep_features, purpose=config.purpose)
    # Not before: a job that fails for want of a file must not hold the folder.
    open_workdir(folder, *experiment)
    for note in statistics.notes:
        logging.warning("%s", note)
    if is_main_process():
        statistics.save(path)
    wait_for_all("reference.written")
    return path


def pack(config: PackingConfig, workdir: str | pathlib.Path) -> pathlib.Path:
    """Writes a set of images as `arr_0` of one npz, part by part.

    Returns:
        Path of the npz.

    Raises:
        FileNotFoundError: The images are missing.
        ValueError: They have several sizes, or one cannot be read.
    """
    require_one_process("packing images")
    folder = local_path(workdir, WORK_FOLDER).absolute()
    images = open_set(config.images)
    open_workdir(folder, PACKED, as_dict(config), results=[PACKED_FILE])
    path = folder / PACKED_FILE
    if path.exists():
        logging.info("%s is there already", path)
        return path
    for note in images.notes:
        logging.warning("%s", note)
    save_npz(path, _parts(images), None, num_images=images.count)
    return path


def _parts(images: ImageSet) -> Iterator[np.ndarray]:
    with progress_bar(images.count, description="packing", unit="image") as bar:
        for index, part in images.parts(_PART):
            yield part
            bar.update(len(index))
