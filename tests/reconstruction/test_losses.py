import jax.numpy as jnp

from rae_jax.reconstruction.losses import feature_loss, l1_loss


def test_l1_is_the_mean_absolute_difference():
    images = jnp.zeros((2, 2, 2, 3))
    loss = l1_loss(images.at[0].set(-0.5).at[1, 0].set(1.0), images)
    assert float(loss) == 0.5


def test_l1_is_float32_for_low_precision_images():
    images = jnp.zeros((1, 16, 16, 3), jnp.bfloat16)
    loss = l1_loss(images + jnp.bfloat16(0.1), images)
    assert loss.dtype == jnp.float32
    assert abs(float(loss) - float(jnp.bfloat16(0.1))) < 1e-6


def test_feature_loss_is_the_mean_square_in_float32():
    features = jnp.zeros((2, 1, 1, 4), jnp.bfloat16)
    loss = feature_loss(features.at[0].set(0.5).at[1, ..., 0].set(2.0), features)
    assert loss.dtype == jnp.float32
    assert float(loss) == (4 * 0.25 + 4) / 8
