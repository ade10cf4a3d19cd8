import numpy as np
import pytest
from PIL import Image

from rae_jax.monitoring.curves import draw_curves, read_metrics, smoothed
from rae_jax.monitoring.writers import JsonLinesWriter


@pytest.fixture
def metrics(tmp_path):
    writer = JsonLinesWriter(tmp_path)
    for step in range(1, 41):
        values = {"loss": 1 / step, "gradient_norm": float("nan") if step == 7 else step}
        writer.scalars(step, values if step > 1 else {"loss": 1.0})
    writer.close()
    return tmp_path / "metrics.jsonl"


def test_reading(metrics):
    with metrics.open("a") as file:
        file.write('{"step": 41, "lo')  # Being written.
    curves = read_metrics(metrics)
    assert list(curves) == ["loss", "gradient_norm"]
    steps, values = curves["loss"]
    np.testing.assert_array_equal(steps, np.arange(1, 41))
    np.testing.assert_allclose(values, 1 / steps)
    assert curves["gradient_norm"][0][0] == 2


def test_smoothing_is_unbiased_and_skips_nan():
    np.testing.assert_allclose(smoothed(np.full(5, 3.0), span=10.0), 3)
    result = smoothed(np.array([np.nan, 1.0, np.nan, 3.0]), span=2.0)
    np.testing.assert_allclose(result, [np.nan, 1, 1, (0.25 * 1 + 0.5 * 3) / 0.75])


def test_drawing(metrics, tmp_path):
    draw_curves(metrics, tmp_path / "out" / "curves.png")
    draw_curves(metrics, tmp_path / "out" / "loss.png", names=["loss"])
    with Image.open(tmp_path / "out" / "curves.png") as both:
        with Image.open(tmp_path / "out" / "loss.png") as one:
            assert both.format == "PNG"
            assert both.width > 1.5 * one.width
            assert len(np.unique(np.asarray(one))) > 10


def test_what_is_missing_is_named(metrics, tmp_path):
    with pytest.raises(ValueError, match=r"no metric \['lpips'\]; it has \['gradient_norm'"):
        draw_curves(metrics, tmp_path / "a.png", names=["lpips"])
    with pytest.raises(FileNotFoundError, match="no metrics file"):
        read_metrics(tmp_path / "absent.jsonl")
