import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.condition_embeddings import GaussianFourierEmbedding, LabelEmbedding
from rae_jax.layers.functional import Buffer
from rae_jax.layers.linear import torch_linear, xavier_linear


def make(linear=xavier_linear, dtype=jnp.float32):
    return GaussianFourierEmbedding(96, linear=linear, dtype=dtype, rngs=nnx.Rngs(0))


def test_frequencies_are_standard_normal_and_never_trained():
    frequencies = make().frequencies
    assert isinstance(frequencies, Buffer) and frequencies.shape == (256,)
    assert abs(float(frequencies[...].mean())) < 5 / 16
    assert abs(float(frequencies[...].std()) - 1) < 5 / np.sqrt(512)


@pytest.mark.parametrize(("linear", "bound"), [(xavier_linear, 0.0), (torch_linear, 512**-0.5)])
def test_initial_mlp(linear, bound):
    embedding = make(linear)
    for layer in (embedding.up, embedding.out):
        kernel = np.asarray(layer.kernel[...])
        assert kernel.std() == pytest.approx(0.02, rel=0.05)
        assert np.abs(kernel).max() > 0.05  # Normal, not uniform.
    assert np.abs(embedding.up.bias[...]).max() == pytest.approx(bound, rel=0.1)
    assert np.any(embedding.up.kernel[:96] != embedding.out.kernel[...])


def test_sines_come_before_cosines():
    embedding = make()
    angles = 2 * np.pi * 0.3 * np.asarray(embedding.frequencies[...], np.float64)
    waves = np.concatenate([np.sin(angles), np.cos(angles)])
    hidden = waves @ np.asarray(embedding.up.kernel[...])
    expected = hidden / (1 + np.exp(-hidden)) @ np.asarray(embedding.out.kernel[...])
    np.testing.assert_allclose(embedding(jnp.array([0.3]))[0], expected, rtol=0, atol=1e-6)


def test_labels_choose_rows():
    embedding = LabelEmbedding(300, 64, rngs=nnx.Rngs(0))
    assert embedding.table.shape == (301, 64)
    assert float(embedding.table[...].std()) == pytest.approx(0.02, rel=0.03)
    rows = embedding(jnp.array([0, 300, 7]))
    np.testing.assert_array_equal(rows, embedding.table[...][jnp.array([0, 300, 7])])


def test_labels_without_a_row_do_not_pass_unseen():
    rows = LabelEmbedding(10, 4, with_null=False, rngs=nnx.Rngs(0))(jnp.array([9, 10]))
    assert np.all(np.isfinite(rows[0])) and np.all(np.isnan(rows[1]))
