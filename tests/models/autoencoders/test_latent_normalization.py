import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.layers.functional import Buffer, split
from rae_jax.models.autoencoders.latent_normalization import LatentNormalization
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw


def test_momentum_statistics_normalize_as_upstream():
    case = load_case("latent_stats")
    features = jnp.asarray(nchw_to_nhwc(case.input("rank0_batch0")))
    running = [nchw_to_nhwc(case.output(f"running_{name}_3")) for name in ("mean", "var")]
    latents = LatentNormalization(*running, epsilon=case.config["eps"]).normalize(features)
    case.assert_close("normalized_eval", nhwc_to_nchw(latents))


def test_batch_statistics_normalize_as_upstream():
    case = load_case("latent_stats")
    features = nchw_to_nhwc(case.input("rank0_batch0"))
    normalization = LatentNormalization(features.mean(0), features.var(0))
    latents = normalization.normalize(jnp.asarray(features))
    case.assert_close("normalized_train", nhwc_to_nchw(latents))
    restored = normalization.denormalize(latents)
    np.testing.assert_allclose(restored, features, rtol=0, atol=1e-6)


def test_another_grid_is_refused():
    normalization = LatentNormalization(np.zeros((4, 4, 8), np.float32), np.ones((4, 4, 8)))
    with pytest.raises(ValueError, match=r"for \(4, 4, 8\) \(h, w, C\), got \(6, 6, 8\)"):
        normalization.normalize(jnp.zeros((1, 6, 6, 8)))
    with pytest.raises(ValueError, match=r"got \(1, 1, 8\)"):
        normalization.denormalize(jnp.zeros((1, 1, 1, 8)))


def test_mean_and_variance_must_have_one_shape():
    with pytest.raises(ValueError, match="one shape"):
        LatentNormalization(np.zeros((4, 4, 8)), np.ones((1, 1, 8)))


def test_statistics_are_constants():
    normalization = LatentNormalization(np.zeros((2, 2, 3)), np.ones((2, 2, 3)))
    _, buffers = split(normalization, Buffer)
    assert {name: leaf.dtype for name, leaf in buffers.items()} == {
        "mean": jnp.float32,
        "variance": jnp.float32,
    }
