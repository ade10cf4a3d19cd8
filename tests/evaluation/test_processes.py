"""Evaluations by two processes of two devices each give what one process gives."""

import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from rae_jax.evaluation.images import from_npz
from rae_jax.evaluation.reconstruction import PairCollector, make_measures
from rae_jax.evaluation.references import compute
from rae_jax.sharding.processes import from_all, ordered_rows
from tests.evaluation.extractors import digits, digits_extractor
from tests.processes import free_address

ROOT = pathlib.Path(__file__).parents[2]
COUNT = 75

SCRIPT = textwrap.dedent(
    """
    import sys
    import jax

    rank, address, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, num_processes=2, process_id=rank)

    import numpy as np
    from rae_jax.configuration.schema import EncoderConfig
    from rae_jax.evaluation.features import encoder
    from rae_jax.evaluation.images import from_npz
    from rae_jax.evaluation.reconstruction import PairCollector, make_measures
    from rae_jax.evaluation.references import compute

    config = EncoderConfig(path="builtin:digits_mae", input_size=48)
    extract = encoder(config, rows=16)
    images = from_npz(f"{folder}/images.npz")
    statistics = compute(images, extract, keep=True)
    collector = PairCollector(make_measures(("psnr", "ssim")), extract)
    for index, part in images.parts(10, process_index=rank, process_count=2):
        collector.add(index, part, part // 2)
    values, result = collector.values(), collector.result("digits")
    np.savez(
        f"{folder}/{rank}.npz", mean=statistics.moments.mean, sigma=statistics.moments.covariance,
        features=statistics.features.pooled, count=statistics.count, psnr=values["psnr"],
        ssim=values["ssim"], pairs=result.settings["pairs"],
        distance=result.scores["reconstruction_frechet_distance"],
    )
    """
)


@pytest.mark.multiprocess
def test_two_processes_score_as_one(tmp_path):
    pictures = digits("test", COUNT)
    np.savez(tmp_path / "images.npz", arr_0=pictures)
    address = free_address()
    command = [sys.executable, "-c", SCRIPT]
    processes = [
        subprocess.Popen([*command, str(rank), address, str(tmp_path)], cwd=ROOT)
        for rank in range(2)
    ]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    extract = digits_extractor(16)
    statistics = compute(from_npz(tmp_path / "images.npz"), extract, keep=True)
    collector = PairCollector(make_measures(("psnr", "ssim")), extract)
    collector.add(np.arange(COUNT), pictures, pictures // 2)
    values, result = collector.values(), collector.result("digits")
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as theirs:
            assert theirs["count"] == theirs["pairs"] == COUNT
            # Features and scores of single pairs are the same bits; sums are merged in float64.
            np.testing.assert_array_equal(theirs["features"], statistics.features.pooled)
            np.testing.assert_array_equal(theirs["psnr"], values["psnr"])
            np.testing.assert_array_equal(theirs["ssim"], values["ssim"])
            np.testing.assert_allclose(theirs["mean"], statistics.moments.mean, rtol=1e-12)
            scale = np.abs(statistics.moments.covariance).max()
            np.testing.assert_allclose(
                theirs["sigma"], statistics.moments.covariance, rtol=0, atol=1e-12 * scale
            )
            expected = result.scores["reconstruction_frechet_distance"]
            assert theirs["distance"] == pytest.approx(expected, rel=1e-6)


def test_one_process_has_everything():
    value = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(from_all(value), value[None])
    rows = ordered_rows(np.array([5, 0, 3]), np.array([[50.0], [0.0], [30.0]]))
    np.testing.assert_array_equal(rows, [[0.0], [30.0], [50.0]])
