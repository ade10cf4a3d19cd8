import numpy as np
import pytest
import scipy.linalg

from rae_jax.evaluation.frechet import Moments, frechet_distance
from tests.comparison import load_case


def features(seed, count=50, width=6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(
        size=width
    )


@pytest.mark.parametrize("width", [16, 64])
def test_distance_matches_upstream(width):
    case = load_case("metrics")
    first = case.input(f"features_a_{width}").astype(np.float64)
    mixing = case.input(f"mixing_{width}").astype(np.float64)
    second = case.input(f"features_b_{width}").astype(np.float64) @ mixing
    case.assert_close(f"fid_{width}", frechet_distance(Moments.of(first), Moments.of(second)))


def test_distance_by_the_root_of_the_product():
    first, second = Moments.of(features(0)), Moments.of(features(1))
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance)
    expected = np.square(first.mean - second.mean).sum() + np.trace(
        first.covariance + second.covariance - 2 * root.real
    )
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-9)


def test_known_distances_between_normal_distributions():
    mean, identity = np.zeros(3), np.eye(3)
    here = Moments(mean, identity)
    assert frechet_distance(here, here) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(here, Moments(mean + 2, identity)) == pytest.approx(12)
    # Along each axis (1 - 3)².
    assert frechet_distance(here, Moments(mean, 9 * identity)) == pytest.approx(12)


def test_singular_covariances_need_no_correction():
    flat = features(2)
    flat[:, 3:] = 0
    few = features(3, count=3)
    distance = frechet_distance(Moments.of(flat), Moments.of(few))
    assert np.isfinite(distance) and distance > 0
    assert frechet_distance(Moments.of(few), Moments.of(flat)) == pytest.approx(distance, rel=1e-9)


@pytest.mark.parametrize("count", [2, 3, 60, 200])
def test_fewer_images_than_features_are_as_precise_as_many(count):
    """Zero eigenvalues that rounding moves would add up, root by root."""
    rows = features(5, count=2 * count, width=120)
    # The distance of sets in a plane is that of their places in it.
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(120, 120)))[0][:2]
    plane = [100 * rows[part, :2] for part in (slice(count), slice(count, None))]
    wide = frechet_distance(*(Moments.of(points @ basis) for points in plane))
    assert wide == pytest.approx(frechet_distance(*map(Moments.of, plane)), rel=1e-9)
    same = Moments.of(rows[:count])
    assert 0 <= frechet_distance(same, same) < 1e-9 * np.trace(same.covariance)
    still = Moments(same.mean, 0 * same.covariance)
    assert frechet_distance(still, same) == pytest.approx(np.trace(same.covariance))


def test_moments_are_unbiased():
    rows = features(4)
    moments = Moments.of(rows)
    centred = rows - rows.mean(axis=0)
    np.testing.assert_allclose(moments.covariance, centred.T @ centred / 49, rtol=1e-12)
    assert Moments.of(rows[:, :1]).covariance.shape == (1, 1)


def test_what_has_no_distance_is_refused():
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        Moments.of(features(0)[:1])
    with pytest.raises(ValueError, match=r"one width, got \(6,\) and \(5,\)"):
        frechet_distance(Moments.of(features(0)), Moments.of(features(0, width=5)))
