import numpy as np
import pytest

from rae_jax.data.sources.digits import Digits
from rae_jax.evaluation.digits import DigitJudge, grey_levels


def split(name):
    source = Digits(name, image_size=16)
    records = [source[index] for index in range(len(source))]
    images, labels = ([record[key] for record in records] for key in ("image", "label"))
    return np.stack(images), np.stack(labels)


@pytest.fixture(scope="module")
def real():
    return {name: split(name) for name in ("train", "test")}


@pytest.fixture(scope="module")
def judge(real):
    return DigitJudge(*real["train"], *real["test"])


def test_real_test_digits_pass(judge, real):
    scores = judge.score(*real["test"])
    assert judge.classifier_accuracy > 0.98
    assert scores.num_samples == 360
    assert scores.recognised == judge.classifier_accuracy
    assert np.mean(scores.recognised_by_class) == pytest.approx(scores.recognised, abs=0.01)
    assert scores.frechet_samples_test == pytest.approx(0, abs=1e-6)
    assert 0 < scores.frechet_train_test
    assert 0 < scores.frechet_noise < scores.frechet_train_test
    assert scores.spread == pytest.approx(1, abs=0.05)
    assert scores.copies == pytest.approx(0.01, abs=0.005)


def test_copies_of_training_digits_are_told(judge, real):
    scores = judge.score(*real["train"])
    assert scores.copies == 1
    assert scores.recognised > 0.99
    assert scores.frechet_samples_test == pytest.approx(scores.frechet_train_test)
    assert scores.frechet_ratio < 1
    assert scores.spread == pytest.approx(1)


def test_wrong_labels_are_told_by_class(judge, real):
    images, labels = real["test"]
    swapped = labels.copy()
    swapped[labels == 3], swapped[labels == 4] = 4, 3
    scores = judge.score(images, swapped)
    by_class = np.array(scores.recognised_by_class)
    assert np.all(by_class[[3, 4]] < 0.05)
    assert np.all(np.delete(by_class, [3, 4]) > 0.9)
    assert scores.recognised == pytest.approx(0.8, abs=0.02)


def test_a_collapse_within_classes_is_told(judge, real):
    images, labels = real["test"]
    means = np.stack([images[labels == label].mean(axis=0) for label in range(10)])
    closer = means[labels] + 0.3 * (images - means[labels])
    scores = judge.score(np.rint(closer).clip(0, 255).astype(np.uint8), labels)
    assert scores.spread == pytest.approx(0.3, abs=0.05)
    assert scores.recognised > 0.95
    assert scores.frechet_ratio > 3


def test_classes_that_look_like_others_are_told(judge, real):
    images, labels = real["test"]
    alike = np.concatenate([images[labels < 5], images[labels < 5]])
    claimed = np.concatenate([labels[labels < 5], labels[labels < 5] + 5])
    scores = judge.score(alike, claimed)
    assert scores.recognised == pytest.approx(0.5, abs=0.02)
    assert scores.frechet_ratio > 3


def test_noise_is_told(judge, real):
    images, labels = real["test"]
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    scores = judge.score(noise, labels)
    assert scores.recognised < 0.3
    assert scores.frechet_ratio > 10
    assert scores.copies == 0


def test_grey_levels_are_means_of_fields():
    images = np.zeros((1, 16, 8, 3), np.uint8)
    images[0, :2, 0] = [255, 0, 0]
    levels = grey_levels(images)
    assert levels.shape == (1, 64)
    assert levels[0, 0] == pytest.approx(1 / 3)
    assert np.all(levels[0, 1:] == 0)
    with pytest.raises(ValueError, match="multiples of 8, got 12x8"):
        grey_levels(np.zeros((1, 12, 8, 3), np.uint8))


def test_a_class_without_samples_is_an_error(judge, real):
    images, labels = real["test"]
    with pytest.raises(ValueError, match=r"too few of classes \[3\]"):
        judge.score(images[labels != 3], labels[labels != 3])
