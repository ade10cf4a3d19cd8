import copy
import dataclasses

import numpy as np
import pytest

from rae_jax.configuration.schema import ImagesConfig
from rae_jax.evaluation.features import INCEPTION, Features
from rae_jax.evaluation.frechet import Moments
from rae_jax.evaluation.images import from_npz
from rae_jax.evaluation.references import (
    Collector,
    SetStatistics,
    compute,
    load,
    open_reference,
)
from tests.evaluation.extractors import digits, digits_extractor

NOISE = np.random.default_rng(0).normal(size=(30, 6))
MOMENTS, SPATIAL = Moments.of(NOISE), Moments.of(NOISE[:, :4])


@pytest.fixture
def images(tmp_path):
    np.savez(tmp_path / "images.npz", arr_0=digits("test", 40))
    return from_npz(tmp_path / "images.npz")


@pytest.fixture
def extract():
    return digits_extractor()


def assert_same(first: Moments, second: Moments):
    np.testing.assert_array_equal(first.mean, second.mean)
    np.testing.assert_array_equal(first.covariance, second.covariance)


def test_statistics_of_a_set(images, extract):
    statistics = compute(images, extract, keep=True, purpose="reconstruction")
    features = extract(digits("test", 40)).pooled
    expected = Moments.of(features)
    np.testing.assert_array_equal(statistics.features.pooled, features)
    np.testing.assert_allclose(statistics.moments.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(
        statistics.moments.covariance, expected.covariance, rtol=0, atol=1e-13
    )
    assert (statistics.count, statistics.image_size) == (40, (48, 48))
    assert statistics.purpose == "reconstruction" and statistics.spatial is None
    assert statistics.extractor == extract.label
    assert compute(images, extract, keep=False).features is None


def test_a_set_taken_in_out_of_order_is_the_same(images, extract, monkeypatch):
    whole = compute(images, extract, keep=True)
    collector = Collector(extract, keep=True)
    for start in (0, 30, 7):
        index = np.arange(start, {0: 7, 7: 30, 30: 40}[start])
        collector.add(index, images.read(index))
        collector.add(index[:0], images.read(index[:0]))
    parts = collector.statistics("parts")
    np.testing.assert_array_equal(parts.features.pooled, whole.features.pooled)
    np.testing.assert_allclose(parts.moments.mean, whole.moments.mean, rtol=1e-13)


def test_too_few_images(extract, tmp_path):
    np.savez(tmp_path / "one.npz", arr_0=digits("test", 1))
    with pytest.raises(ValueError, match="one.npz: 1 images have no covariance"):
        compute(from_npz(tmp_path / "one.npz"), extract, keep=False)
    with pytest.raises(ValueError, match="nothing: a process has no images"):
        Collector(extract, keep=False).statistics("nothing")


@pytest.mark.parametrize("label", [INCEPTION, "another, not FID"])
@pytest.mark.parametrize("kept", [True, False])
def test_files_hold_everything(tmp_path, label, kept):
    features = Features(NOISE.astype(np.float32), None, np.ones((30, 2), np.float32))
    statistics = SetStatistics(
        "photos",
        label,
        MOMENTS,
        SPATIAL,
        features if kept else None,
        30,
        (8, 9),
        "generation",
        ("a note",),
    )
    statistics.save(tmp_path / "set.npz")
    back = load(tmp_path / "set.npz")
    assert_same(back.moments, MOMENTS)
    assert_same(back.spatial, SPATIAL)
    assert back.name == f"{tmp_path / 'set.npz'} (photos)"
    for name in ("extractor", "count", "image_size", "purpose", "notes"):
        assert getattr(back, name) == getattr(statistics, name)
    if kept:
        np.testing.assert_array_equal(back.features.pooled, features.pooled)
        np.testing.assert_array_equal(back.features.logits, features.logits)
    else:
        assert back.features is None
    with np.load(tmp_path / "set.npz") as arrays:
        # What other tools would take for FID's is there for Inception alone.
        assert ("mu" in arrays) == (label == INCEPTION)


def test_files_of_the_adm_suite_and_of_pytorch_fid(tmp_path):
    names = {"mu": MOMENTS.mean, "sigma": MOMENTS.covariance}
    np.savez(tmp_path / "pytorch_fid.npz", **names)
    names |= {"mu_s": SPATIAL.mean, "sigma_s": SPATIAL.covariance}
    np.savez(tmp_path / "adm.npz", **names)
    first, second = load(tmp_path / "pytorch_fid.npz"), load(tmp_path / "adm.npz")
    assert first.extractor == second.extractor == INCEPTION
    assert (first.count, first.image_size, first.spatial) == (0, None, None)
    assert_same(second.moments, MOMENTS)
    assert_same(second.spatial, SPATIAL)


def test_an_adm_file_gives_moments_and_the_features_of_its_images(tmp_path, extract):
    path = tmp_path / "adm.npz"
    width = 64
    names = {"mu": np.zeros(width), "sigma": np.eye(width), "arr_0": digits("test", 20)}
    np.savez(path, **names)
    config = ImagesConfig(path=str(path))
    with pytest.raises(ValueError, match="statistics of the network 'Inception 2015-12-05', but"):
        open_reference(config, extract, keep=True)
    published = copy.copy(extract)  # A light network that passes for Inception.
    published.label = INCEPTION
    statistics, images = open_reference(config, published, keep=True)
    np.testing.assert_array_equal(statistics.moments.mean, np.zeros(width))
    np.testing.assert_array_equal(statistics.features.pooled, extract(digits("test", 20)).pooled)
    assert statistics.count == 0 and statistics.image_size == (48, 48)
    assert images.count == 20
    moments, images = open_reference(config, published, keep=False)
    assert moments.features is None and images is None


def test_a_reference_may_be_images(images, extract):
    statistics, found = open_reference(ImagesConfig(path=images.name), extract, keep=True)
    assert_same(statistics.moments, compute(images, extract, keep=False).moments)
    assert found is not None and found.count == 40


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "must hold mu and sigma, it holds mu"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"must have the shapes \[D\] and \[D, D\]"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "mu or sigma holds NaN"),
    ],
)
def test_wrong_files(tmp_path, arrays, message):
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "wrong.npz")


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no statistics at .*; make them with tools/comp"):
        load(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        dataclasses.replace(SetStatistics("x", "y", MOMENTS)).save(tmp_path / "set.npy")


def test_a_damaged_file(tmp_path):
    path = tmp_path / "set.npz"
    SetStatistics("x", INCEPTION, MOMENTS).save(path)
    data = bytearray(path.read_bytes())
    data[400] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=f"{path} is damaged .*; write or fetch it again"):
        load(path)


def test_a_work_folder_of_statistics(tmp_path, extract):
    (tmp_path / "config.json").write_text('{"kind": "reference statistics", "config": {}}')
    config = ImagesConfig(path=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="are not finished; start tools/compute_reference"):
        open_reference(config, extract, keep=False)
    made = SetStatistics("digits", extract.label, MOMENTS, count=30)
    made.save(tmp_path / "reference_statistics.npz")
    assert_same(load(tmp_path).moments, MOMENTS)
    assert open_reference(config, extract, keep=False)[0].count == 30
