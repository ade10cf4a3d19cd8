"""Agreement with torch-fidelity and torchmetrics; needs the extras `torch` and `fidelity`."""

import importlib.util
import warnings

import jax
import numpy as np
import pytest

from rae_jax.evaluation.features import inception
from tests.evaluation import peers

MISSING = [n for n in ("torchmetrics", "torch_fidelity") if importlib.util.find_spec(n) is None]
pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(bool(MISSING), reason=f"pip install -e .[torch,fidelity] for {MISSING}"),
]

COUNT, SIDE = 48, 64


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    weights = peers.write_weights(tmp_path_factory.mktemp("weights"))
    extract = inception(weights, rows=16, devices=jax.devices()[:1])
    real, samples = peers.pictures(COUNT, SIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of other packages about themselves.
        sets = peers.statistics(extract, samples, real)
        rows = peers.fidelity_rows(weights, extract, sets, samples, real)
        rows += peers.metrics_rows(sets[0], sets[1], (real, samples))
    return {f"{name} {peer}": (ours, theirs) for name, peer, ours, theirs in rows}


@pytest.mark.parametrize(
    "name",
    [
        *(f"inception_score{end} torch-fidelity" for end in ("", "_std")),
        *(f"kid{end} in float64 torch-fidelity" for end in ("", "_std")),
        *(f"{name} torch-fidelity" for name in ("fid", "precision", "recall")),
        *(f"{name} torchmetrics" for name in ("fid", "kid", "inception_score", "psnr", "ssim")),
    ],
)
def test_scores_agree(rows, name):
    ours, theirs = rows[name]
    # Theirs takes roots of a product that is not symmetric, whose zero eigenvalues are noise.
    limit = 1e-3 if name.startswith("fid") else 1e-5
    assert peers.relative_difference(ours, theirs) < limit
    assert np.isfinite(ours) and ours != 0


def test_the_kernel_distance_of_the_tool_is_that_of_float64_but_for_its_rounding(rows):
    for name in ("kid", "kid_std"):
        ours, theirs = rows[f"{name} torch-fidelity"]
        assert abs(ours - theirs) < 2e-6  # Some units in the last place of kernels near 1.


def test_every_score_is_compared(rows):
    assert len(rows) == 14
