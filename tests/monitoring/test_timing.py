import pytest

from rae_jax.monitoring.timing import Throughput


def test_rates_over_windows():
    times = iter([100.0, 110.0, 130.0])
    throughput = Throughput(images_per_step=8, clock=lambda: next(times))
    throughput.start(1)
    assert throughput.measure(21) == {"steps_per_second": 2.0, "images_per_second": 16.0}
    assert throughput.measure(31)["steps_per_second"] == pytest.approx(0.5)


def test_no_rate_without_a_window():
    throughput = Throughput(images_per_step=8)
    assert throughput.measure(5) == {}
    assert throughput.measure(5) == {}
