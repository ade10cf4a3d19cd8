"""The scripts of docs/examples give what tools/sample.py gives, and are what the documents show."""

import runpy
import sys

import jax
import numpy as np
import pytest

from rae_jax.configuration.schema import SamplingConfig
from rae_jax.sampling.samples import make_samples
from tests.project import ROOT
from tests.sampling.trained import stage2_run

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def checkpoint(runs, tmp_path_factory):
    return stage2_run(runs, tmp_path_factory.mktemp("stage2"))


@pytest.fixture(scope="module")
def expected(checkpoint, tmp_path_factory):
    """64 samples by the eight devices of the tests, eight on each at a time."""
    config = SamplingConfig(checkpoint=checkpoint, num_images=64, save_png=False)
    assert jax.device_count() == 8
    return np.load(make_samples(config, tmp_path_factory.mktemp("samples")))


@pytest.mark.long
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_gives_the_samples_of_the_tool(
    path, checkpoint, expected, tmp_path, monkeypatch
):
    output = tmp_path / "samples.npz"
    monkeypatch.setattr(sys, "argv", [str(path), checkpoint, str(output)])
    runpy.run_path(str(path), run_name="__main__")
    with np.load(output) as samples:
        np.testing.assert_array_equal(samples["arr_1"], expected["arr_1"])
        difference = np.abs(samples["arr_0"].astype(int) - expected["arr_0"])
    # Those that put eight on each device too give the same bits.
    assert difference.max() <= (0 if "pmap" in path.stem else 1)
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_shown(path):
    documents = [document.read_text() for document in (ROOT / "docs").glob("*.md")]
    assert any(f"```python\n{path.read_text()}```" in document for document in documents)
