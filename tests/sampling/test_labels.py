import numpy as np
import pytest

from rae_jax.sampling.labels import class_labels


@pytest.mark.parametrize("labels", ["equal", "random", "0-9,3"])
def test_a_larger_set_begins_with_the_smaller(labels):
    many = class_labels(labels, 307, 10, seed=4)
    assert many.dtype == np.int32
    for count in (1, 9, 10, 25):
        np.testing.assert_array_equal(many[:count], class_labels(labels, count, 10, seed=4))


def test_equal_labels_are_as_many_of_each_class_in_an_order_from_the_seed():
    labels = class_labels("equal", 50_000, 1000, seed=0)
    assert set(np.bincount(labels)) == {50}
    runs = labels.reshape(50, 1000)
    np.testing.assert_array_equal(np.sort(runs), np.broadcast_to(np.arange(1000), runs.shape))
    # A permutation has one fixed point on average; two of one seed agree as rarely.
    assert np.all((runs == np.arange(1000)).sum(1) < 8)
    assert np.all((runs[1:] == runs[:-1]).sum(1) < 8)
    assert (labels == class_labels("equal", 50_000, 1000, seed=1)).mean() < 0.002


def test_random_labels_are_uniform():
    labels = class_labels("random", 300, 10, seed=4)
    assert np.any(labels != class_labels("random", 300, 10, seed=5))
    # A multinomial with 30 expected in each class.
    assert np.all(abs(np.bincount(labels, minlength=10) - 30) < 20)


def test_listed_labels_come_in_turn():
    assert class_labels("3, 1,4", 5, 10, seed=0).tolist() == [3, 1, 4, 3, 1]
    assert class_labels("0-2,9", 6, 10, seed=0).tolist() == [0, 1, 2, 9, 0, 1]


def test_labels_that_the_model_does_not_have_are_refused():
    with pytest.raises(ValueError, match="below the model's 10 classes, got 12$"):
        class_labels("3,10-12", 5, 10, seed=0)
    with pytest.raises(ValueError, match="below the model's 10 classes, got 99999999999$"):
        class_labels("0-99999999999", 5, 10, seed=0)
