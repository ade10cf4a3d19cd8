import jax
import numpy as np
import pytest

from rae_jax.evaluation.frechet import Moments, StreamingMoments, frechet_distance
from rae_jax.evaluation.inception_score import adm_inception_score, inception_score
from rae_jax.evaluation.kernel_distance import kernel_distance
from rae_jax.evaluation.precision_recall import precision_recall
from tests.comparison import load_case


@pytest.fixture(scope="module")
def case():
    return load_case("metrics_generation")


@pytest.fixture(scope="module")
def features(case):
    return case.output("samples"), case.output("reference")


def test_frechet_distance(case, features):
    samples, reference = map(Moments.of, features)
    case.assert_close("fid", frechet_distance(samples, reference))
    case.assert_close("samples_mu", samples.mean)
    case.assert_close("samples_sigma", samples.covariance)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("rae_jax.evaluation.frechet._BLOCK", 32)


def streamed(parts):
    parts = list(parts)
    streaming = StreamingMoments(parts[0].shape[1])
    for part in parts:
        streaming.add(part)
    return streaming


@pytest.mark.parametrize("cuts", [[7], [1, 2, 140], range(0, 280, 9)])
def test_moments_are_the_same_bits_however_the_rows_are_cut(features, cuts, small_blocks):
    samples = features[0]
    parts, whole = streamed(np.split(samples, list(cuts))), streamed([samples])
    np.testing.assert_array_equal(parts.moments().mean, whole.moments().mean)
    np.testing.assert_array_equal(parts.moments().covariance, whole.moments().covariance)
    assert parts.count == len(samples)


def test_moments_in_parts_and_merged(features, small_blocks):
    samples = features[0]
    left, right = streamed([samples[:90]]), streamed([samples[90:]])
    right.finish()
    left.merge(0, right.mean, right.scatter)
    left.merge(right.count, right.mean, right.scatter)
    whole, parts = Moments.of(samples), left.moments()
    assert left.count == len(samples)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=0, atol=1e-13)
    np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=0, atol=1e-12)


def test_moments_far_from_zero_lose_no_digits(features, small_blocks):
    streaming = streamed([features[0].astype(np.float64) + 1e6])
    expected = Moments.of(features[0]).covariance
    np.testing.assert_allclose(streaming.moments().covariance, expected, rtol=0, atol=1e-8)


def test_moments_need_two_rows_of_one_width():
    streaming = streamed([np.zeros((1, 3))])
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        streaming.moments()
    with pytest.raises(ValueError, match="one width"):
        streaming.add(np.zeros((2, 4)))


def test_inception_score(case):
    logits = case.output("logits")
    case.assert_close("inception_score_ordered", inception_score(logits, seed=None))
    case.assert_close("inception_score_shuffled", inception_score(logits))
    case.assert_close("adm_inception_score", adm_inception_score(logits, block=100))
    with pytest.raises(ValueError, match="10 splits need as many images, got 3"):
        inception_score(logits[:3])


def test_kernel_distance(case, features):
    case.assert_close("kid", kernel_distance(*features, subsets=10, subset_size=100))
    with pytest.raises(ValueError, match="smaller subset_size"):
        kernel_distance(*features)
    with pytest.raises(ValueError, match="one width"):
        kernel_distance(features[0], features[1][:, :5])


ONE = jax.devices()[:1]


def shares(samples, reference, neighbours=3):
    """Precision and recall by tables of all distances, each by itself, in float64."""

    def table(points, others):
        differences = points.astype(np.float64)[:, None] - others.astype(np.float64)[None]
        return np.square(differences).sum(axis=2)

    def share(points, centres):
        radii = np.sort(table(centres, centres), axis=1)[:, neighbours]
        return (table(points, centres) <= radii).any(axis=1).mean()

    return share(samples, reference), share(reference, samples)


def test_precision_and_recall(case, features, monkeypatch):
    case.assert_close("precision_recall", precision_recall(*features, devices=ONE))
    monkeypatch.setattr("rae_jax.evaluation.precision_recall._ROWS", 37)
    case.assert_close("precision_recall", precision_recall(*features))
    with pytest.raises(ValueError, match="more than 3"):
        precision_recall(features[0][:3], features[1])
    with pytest.raises(ValueError, match="one width"):
        precision_recall(features[0], features[1][:, :5])


def far(samples, reference):
    return samples + np.float32(300), reference + np.float32(300)


def with_copies(samples, reference):
    """Balls of radius zero, some around points of the other set."""
    samples, reference = samples.copy(), reference.copy()
    samples[:30] = samples[0]
    reference[:20] = reference[0]
    reference[20:40] = samples[0]
    return samples, reference


def on_a_grid(samples, reference):
    """Many equal distances, and points on the very edge of a ball."""
    return np.round(samples[:, :3]), np.round(reference[:, :3])


def few(samples, reference):
    """As many as a ball needs."""
    return samples[:4], reference[:5]


@pytest.mark.parametrize("change", [far, with_copies, on_a_grid, few])
def test_what_float32_leaves_open_is_decided_exactly(features, change):
    pair = change(*features)
    assert precision_recall(*pair, devices=ONE) == shares(*pair)


def test_without_any_help_of_the_devices(features, monkeypatch):
    """Bounds so wide that nothing is known but by the exact decision."""
    monkeypatch.setattr(
        "rae_jax.evaluation.precision_recall._bounds",
        lambda squares, others, products, width: (
            0 * products - 1,
            squares[:, None] + others[None] + 2 * abs(products) + 1,
        ),
    )
    assert precision_recall(*features, devices=ONE) == shares(*features)


def test_precision_and_recall_of_equal_and_of_distant_sets(features):
    samples, reference = features
    assert precision_recall(samples, samples, devices=ONE) == (1, 1)
    assert precision_recall(samples, reference + 100, devices=ONE) == (0, 0)
