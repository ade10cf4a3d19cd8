import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.reconstruction.latent_statistics import (
    LatentStatistics,
    momentum_combine,
    momentum_update,
)
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw


def batches_of(case, rank):
    names = [f"rank{rank}_batch{index}" for index in range(3)]
    return [jnp.asarray(nchw_to_nhwc(case.input(name))) for name in names]


def statistics_of(batches):
    statistics = LatentStatistics.empty(batches[0].shape[1:])
    for batch in batches:
        statistics = statistics.add(batch)
    return statistics


def momentum_of(case, rank):
    """Running mean and variance after every batch."""
    mean, variance = jnp.zeros((3, 3, 6)), jnp.ones((3, 3, 6))
    history = []
    for batch in batches_of(case, rank):
        mean, variance = momentum_update(mean, variance, batch, momentum=case.config["momentum"])
        history.append((mean, variance))
    return history


def test_exact_statistics_match_the_whole_set():
    case = load_case("latent_stats")
    statistics = statistics_of(batches_of(case, 0))
    assert statistics.count == 10
    case.assert_close("exact_mean", nhwc_to_nchw(statistics.mean))
    case.assert_close("exact_var", nhwc_to_nchw(statistics.variance))


def test_momentum_matches_upstream():
    case = load_case("latent_stats")
    for step, (mean, variance) in enumerate(momentum_of(case, 0), start=1):
        case.assert_close(f"running_mean_{step}", nhwc_to_nchw(mean))
        case.assert_close(f"running_var_{step}", nhwc_to_nchw(variance))


def test_combined_ranks_match_upstream():
    case = load_case("latent_stats")
    ranks = [momentum_of(case, rank)[-1] for rank in (0, 1)]
    mean, variance = momentum_combine(*(jnp.stack(values) for values in zip(*ranks, strict=True)))
    case.assert_close("synced_mean", nhwc_to_nchw(mean))
    case.assert_close("synced_var", nhwc_to_nchw(variance))


def test_cutting_and_merging_change_nothing():
    values = np.random.default_rng(0).normal(100, 0.1, (60, 2, 3, 4)).astype(np.float32)
    whole = values.astype(np.float64)
    parts = [
        statistics_of([jnp.asarray(part) for part in np.split(half, [1, 7, 20])])
        for half in np.split(values, 2)
    ]
    for statistics in (parts[0].merge(parts[1]), parts[1].merge(parts[0])):
        # The mean is a thousand times the deviation: sums of squares in float32 would lose it.
        np.testing.assert_allclose(statistics.mean, whole.mean(0), rtol=1e-9)
        np.testing.assert_allclose(statistics.variance, whole.var(0), rtol=1e-5)
        assert statistics.count == 60


def test_merging_with_nothing_changes_nothing():
    some = statistics_of([jnp.ones((3, 2, 2, 1)).at[0].set(4.0)])
    empty = LatentStatistics.empty((2, 2, 1))
    for merged in (some.merge(empty), empty.merge(some)):
        np.testing.assert_array_equal(merged.mean, some.mean)
        np.testing.assert_array_equal(merged.variance, some.variance)
    assert empty.merge(empty).count == 0


def test_files_hold_mean_variance_and_count_and_survive_the_round_trip(tmp_path):
    statistics = statistics_of([jnp.arange(24.0).reshape(4, 1, 2, 3)])
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
    np.testing.assert_allclose(restored.variance, statistics.variance, rtol=1e-15)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "statistics.npz"
    LatentStatistics.empty((1, 1, 1)).add(jnp.ones((2, 1, 1, 1))).save(path)
    before = path.read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        LatentStatistics.empty((1, 1, 1)).add(jnp.zeros((2, 1, 1, 1))).save(path)
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


def test_shapes_must_agree():
    statistics = LatentStatistics.empty((2, 2, 3))
    with pytest.raises(ValueError, match=r"got a batch of \(2, 3, 3\)"):
        statistics.add(jnp.zeros((1, 2, 3, 3)))
    with pytest.raises(ValueError, match="cannot be merged"):
        statistics.merge(LatentStatistics.empty((2, 2, 4)))


def test_no_samples_have_no_variance():
    with pytest.raises(ValueError, match="no samples"):
        _ = LatentStatistics.empty((1, 1, 1)).variance
