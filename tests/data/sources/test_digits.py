"""The digits that ship with scikit-learn."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from rae_jax.data.sources.digits import Digits


def contents(source) -> list[bytes]:
    return [record["image"].tobytes() for record in (source[i] for i in range(len(source)))]


def test_splits_are_fixed_and_hold_every_digit_once():
    train, test = Digits("train", image_size=8), Digits("test", image_size=8)
    assert (len(train), len(test)) == (1437, 360)
    whole = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    expected = sorted(np.repeat(image[..., None], 3, axis=-1).tobytes() for image in whole)
    assert sorted(contents(train) + contents(test)) == expected
    # The split is part of published scores: it must never change.
    digest = hashlib.sha256(b"".join(contents(test))).hexdigest()
    assert digest == "4ee51635396bfc00daedccb2ed5c643da8dc64e7a34b69815b9f3b18c825e0d0"


def test_every_class_gives_a_fifth_to_the_test_split():
    labels = {}
    for split in ("train", "test"):
        source = Digits(split, image_size=8)
        labels[split] = [source[i]["label"] for i in range(len(source))]
    share = np.bincount(labels["test"]) / np.bincount(labels["train"] + labels["test"])
    assert np.all(np.abs(share - 0.2) < 0.01)


def test_records_are_rgb_images_of_the_size_asked_for():
    source = Digits("train", image_size=32)
    record = source[np.int64(3)]
    assert record["image"].shape == (32, 32, 3)
    assert record["image"].dtype == np.uint8
    assert (record["image"] == record["image"][..., :1]).all()
    assert (record["label"].dtype, record["index"].dtype) == (np.int32, np.int64)
    assert record["index"] == 3
    # Enlarging keeps the picture: averaged back over 4x4 pixels it resembles the original.
    small = Digits("train", image_size=8)[3]["image"][..., 0].astype(float)
    back = record["image"][..., 0].reshape(8, 4, 8, 4).mean((1, 3))
    assert np.corrcoef(small.ravel(), back.ravel())[0, 1] > 0.98
    np.testing.assert_array_equal(record["image"], source[3]["image"])


def test_repr_tells_sources_apart():
    assert repr(Digits("test", image_size=16)) == "Digits('test', image_size=16)"


def test_wrong_arguments():
    with pytest.raises(ValueError, match="splits .*'train', 'test'.* got 'validation'"):
        Digits("validation", image_size=32)
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        Digits("train", image_size=0)
    with pytest.raises(IndexError):
        Digits("test", image_size=8)[360]
