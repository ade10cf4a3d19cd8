"""Arrays that depend on their names and shapes alone."""

import numpy as np

from rae_jax.benchmarking import filling


def test_entries_keep_the_scale_of_activations():
    kernel = filling.weight("layer.weight", (300, 400))
    inputs = filling.values("inputs", (50, 400))
    np.testing.assert_allclose(np.std(inputs @ kernel.T), 1, rtol=0.1)
    assert filling.weight("norm.weight", (400,)).min() > 0.5
    assert filling.weight("norm.running_var", (400,)).min() > 0.5
    assert np.abs(filling.weight("norm.bias", (400,))).max() < 0.2


def test_names_tell_arrays_apart():
    first, second = (filling.values(name, (64, 64)) for name in ("a", "b"))
    np.testing.assert_array_equal(first, filling.values("a", (64, 64)))
    assert np.abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1
    assert not np.array_equal(first[0], first[1])


def test_inputs_are_in_their_ranges():
    images = filling.images(2, 8)
    assert images.shape == (2, 8, 8, 3)
    assert 0 <= images.min() < images.max() <= 1
    assert 0 < filling.times(4).min() < filling.times(4).max() < 1
    assert set(filling.labels(5, 3)) <= {0, 1, 2}


def test_an_excerpt_is_small_and_from_everywhere():
    flat = np.arange(100_000, dtype=np.float32)
    found = filling.excerpt(flat.reshape(100, 1000))
    assert 500 < found.size < 520
    assert found[0] == 0
    assert found[-1] > 99_000
    assert filling.excerpt(flat[:7]).size == 7
