import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.reconstruction.latent_noise import LatentNoise, add_latent_noise, apply_latent_noise
from tests.comparison import load_case
from tests.golden import recipe


def test_recorded_noise_matches_upstream():
    case = load_case("rae_noising")
    noise = case.input("randn_like")
    sigma = case.config["noise_tau"] * case.input("rand").reshape(3)
    grid = jnp.asarray(noise.reshape(3, 4, 4, 32))
    noisy = apply_latent_noise(2 * grid, jnp.asarray(sigma, jnp.float32), grid)
    case.assert_close("noised", noisy.reshape(3, 16, 32))


def test_strength_is_uniform_per_sample_and_noise_is_normal():
    features = jnp.ones((2000, 8, 8, 4))
    noise = np.asarray(add_latent_noise(features, jax.random.key(0), 0.5)) - 1
    strength = noise.std(axis=(1, 2, 3))
    # 256 values per sample estimate its strength to 4 %, 2000 samples the quantiles to 2 %.
    quantiles = np.quantile(strength, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, [0.05, 0.25, 0.45], rtol=0, atol=0.02)
    assert strength.max() < 0.58
    scaled = noise[strength > 0.1] / strength[strength > 0.1, None, None, None]
    assert abs(scaled.mean()) < 0.01
    assert abs((scaled**4).mean() - 3) < 0.1


def test_noise_of_a_sample_does_not_depend_on_the_batch_size():
    features = jnp.asarray(recipe.uniform("features", (6, 2, 2, 3)))
    key = jax.random.key(1)
    few = add_latent_noise(features[:2], key, 0.8)
    np.testing.assert_array_equal(add_latent_noise(features, key, 0.8)[:2], few)


def test_zero_tau_adds_nothing():
    features = jnp.asarray(recipe.uniform("features", (2, 2, 2, 3)))
    np.testing.assert_array_equal(LatentNoise(0.0)(features, jax.random.key(1)), features)


def test_dtype_is_kept():
    features = jnp.zeros((2, 2, 2, 3), jnp.bfloat16)
    assert add_latent_noise(features, jax.random.key(0), 0.8).dtype == jnp.bfloat16


def test_negative_tau_is_refused():
    with pytest.raises(ValueError, match="must not be negative, got -0.1"):
        add_latent_noise(jnp.zeros((1, 2, 2, 3)), jax.random.key(0), -0.1)
