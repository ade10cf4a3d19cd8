import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.reconstruction.latent_statistics import (
    BatchMoments,
    LatentStatistics,
    Moments,
    MomentumAverage,
    batch_moments,
    momentum_combine,
)
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw

on_device = jax.jit(batch_moments)


def batch_of(features, fill=0) -> BatchMoments:
    """Moments of a batch, with rows at its end that do not count."""
    filled = np.concatenate([features, np.full((fill, *features.shape[1:]), 1e6)])
    valid = np.arange(len(filled)) < len(features)
    return on_device(jnp.asarray(filled, jnp.float32), jnp.asarray(valid))


def moments_of(features, fill=0) -> Moments:
    return Moments.of(batch_of(features, fill))


def merged(parts):
    return functools.reduce(lambda before, after: before.merge(after), parts)


def constant(value) -> LatentStatistics:
    return LatentStatistics(2, np.full((1, 1, 1), value), np.ones((1, 1, 1)))


def batches_of(case, rank):
    return [nchw_to_nhwc(case.input(f"rank{rank}_batch{index}")) for index in range(3)]


def averages_of(case, rank):
    momentum = case.config["momentum"]
    return [MomentumAverage.of(batch_of(batch), momentum) for batch in batches_of(case, rank)]


def test_exact_statistics_match_the_whole_set():
    case = load_case("latent_stats")
    statistics = merged([moments_of(batch) for batch in batches_of(case, 0)]).statistics()
    assert statistics.count == 10
    case.assert_close("exact_mean", nhwc_to_nchw(statistics.mean))
    case.assert_close("exact_var", nhwc_to_nchw(statistics.variance))


def test_momentum_matches_upstream():
    case = load_case("latent_stats")
    averages = averages_of(case, 0)
    for step in (1, 2, 3):
        # Of one rank alone, joining changes nothing.
        statistics = momentum_combine([merged(averages[:step])])
        case.assert_close(f"running_mean_{step}", nhwc_to_nchw(statistics.mean))
        case.assert_close(f"running_var_{step}", nhwc_to_nchw(statistics.variance))


def test_combined_ranks_match_upstream():
    case = load_case("latent_stats")
    statistics = momentum_combine([merged(averages_of(case, rank)) for rank in (0, 1)])
    assert statistics.count == 20
    case.assert_close("synced_mean", nhwc_to_nchw(statistics.mean))
    case.assert_close("synced_var", nhwc_to_nchw(statistics.variance))


def test_steps_with_momentum_merge_in_any_grouping():
    first, second, third = averages_of(load_case("latent_stats"), 0)
    left, right = first.merge(second).merge(third), first.merge(second.merge(third))
    assert left.count == right.count == 10
    assert left.kept == pytest.approx(0.9**3)
    np.testing.assert_allclose(left.mean, right.mean, rtol=0, atol=1e-15)
    np.testing.assert_allclose(left.variance, right.variance, rtol=0, atol=1e-15)


def test_cutting_and_merging_change_nothing():
    values = np.random.default_rng(0).normal(100, 0.1, (60, 2, 3, 4)).astype(np.float32)
    whole = values.astype(np.float64)
    parts = [
        # All are filled up to one shape, for one compilation.
        merged([moments_of(part, fill=20 - len(part)) for part in np.split(half, [1, 7, 20])])
        for half in np.split(values, 2)
    ]
    for joined in (parts[0].merge(parts[1]), parts[1].merge(parts[0])):
        statistics = joined.statistics()
        # The mean is a thousand times the deviation: sums of squares in float32 would lose it.
        np.testing.assert_allclose(statistics.mean, whole.mean(0), rtol=1e-9)
        np.testing.assert_allclose(statistics.variance, whole.var(0), rtol=1e-5)
        assert statistics.count == 60


def test_a_batch_that_only_fills_up_has_no_samples():
    moments = on_device(jnp.ones((20, 2, 3, 4)), jnp.zeros(20, bool))
    assert moments.samples == 0
    assert all(np.isfinite(leaf).all() for leaf in moments)


def test_one_sample_has_no_variance_below_zero():
    statistics = moments_of(np.full((1, 2, 3, 4), 1e3 / 3), fill=19).statistics()
    np.testing.assert_array_equal(statistics.variance, 0)


def test_differences_are_told_in_the_units_of_the_latents():
    def statistics(mean, std):
        return LatentStatistics(1, np.reshape(mean, (1, 1, -1)), np.reshape(std, (1, 1, -1)) ** 2)

    ours, reference = statistics([1.0, 2.0], [2.0, 0.0]), statistics([1.0, 5.0], [4.0, 0.0])
    difference = ours.difference(reference)
    # The second channel is constant in the reference: its latents are divided by sqrt(1e-5).
    assert difference["mean"] == pytest.approx(
        {
            "max_absolute": 3.0,
            "mean_absolute": 1.5,
            "max_relative": 3 / 1e-5**0.5,
            "mean_relative": 1.5 / 1e-5**0.5,
        }
    )
    scale = (16 + 1e-5) ** 0.5
    assert difference["std"] == pytest.approx(
        {
            "max_absolute": 2.0,
            "mean_absolute": 1.0,
            "max_relative": 2 / scale,
            "mean_relative": 1 / scale,
        }
    )


def test_files_hold_mean_variance_and_count_and_survive_the_round_trip(tmp_path):
    statistics = moments_of(np.arange(24.0).reshape(4, 1, 2, 3)).statistics()
    path = tmp_path / "folder" / "statistics.npz"
    statistics.save(path)
    statistics.save(path)
    assert [file.name for file in path.parent.iterdir()] == ["statistics.npz"]
    with np.load(path) as arrays:
        assert set(arrays) == {"mean", "variance", "count", "encoder"}
        assert arrays["mean"].shape == arrays["variance"].shape == (1, 2, 3)
    restored = LatentStatistics.load(path)
    assert restored.count == 4
    np.testing.assert_array_equal(restored.mean, statistics.mean)
    np.testing.assert_array_equal(restored.variance, statistics.variance)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "statistics.npz"
    constant(1.0).save(path)
    before = path.read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        constant(2.0).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["statistics.npz"]


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no latent statistics at .*none.npz"):
        LatentStatistics.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match="text.npz must be an npz with mean, variance and count"):
        LatentStatistics.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", mean=np.zeros((2, 2, 3)), variance=np.zeros(3), count=1)
    with pytest.raises(ValueError, match="other.npz: mean and variance must have one shape"):
        LatentStatistics.load(tmp_path / "other.npz")
