import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.reconstruction.adaptive_weight import adaptive_weight, norm
from rae_jax.reconstruction.adversarial import (
    DISCRIMINATOR_LOSSES,
    accuracy,
    discretized,
    generator_loss,
    hinge_discriminator_loss,
)
from tests.comparison import load_case


@pytest.fixture(scope="module")
def case():
    return load_case("losses")


@pytest.mark.parametrize("name", DISCRIMINATOR_LOSSES)
def test_discriminator_losses_match_upstream(case, name):
    real, fake = (jnp.asarray(case.input(f"logits_{kind}")) for kind in ("real", "fake"))
    loss = DISCRIMINATOR_LOSSES[name](real, fake)
    case.assert_close(f"{name}_d_mean", loss)
    case.assert_close(f"{name}_d_sum", loss * real.size)


def test_generator_loss_matches_upstream(case):
    fake = jnp.asarray(case.input("logits_fake"))
    case.assert_close("vanilla_g_mean", generator_loss(fake))
    case.assert_close("vanilla_g_sum", generator_loss(fake) * fake.size)


def test_losses_of_low_precision_logits_are_float32():
    logits = jnp.full((2, 3), 0.1, jnp.bfloat16)
    for loss in (hinge_discriminator_loss(logits, logits), generator_loss(logits)):
        assert loss.dtype == jnp.float32


def test_accuracy_is_the_share_of_larger_real_logits():
    assert float(accuracy(jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([0.0, 2.0, 4.0, 3.0]))) == 0.5


def test_discretized_images_are_those_of_eight_bits_and_have_no_gradient():
    levels = jnp.arange(256, dtype=jnp.float32).reshape(1, 16, 16, 1)
    stored = levels / 127.5 - 1
    np.testing.assert_allclose(discretized(stored), stored, rtol=0, atol=1e-6)
    np.testing.assert_allclose(discretized(stored + 0.3 / 127.5)[0, :15], stored[0, :15], atol=1e-6)
    np.testing.assert_allclose(discretized(3 * stored), jnp.clip(3 * stored, -1, 1), atol=4e-3)
    assert not np.any(jax.grad(lambda x: discretized(x).sum())(stored))


def test_adaptive_weight_is_a_constant_of_the_loss():
    ours, theirs = jnp.array([3.0, 4.0]), jnp.array([0.0, 2.0])
    assert float(adaptive_weight(ours, theirs)) == pytest.approx(2.5, rel=1e-6)
    assert float(adaptive_weight(ours, 0 * theirs)) == 1e4
    assert float(adaptive_weight(ours, theirs, largest=2.0)) == 2
    assert not np.any(jax.grad(adaptive_weight)(ours, theirs))
    assert float(norm(jnp.full(4, 3.0, jnp.bfloat16))) == 6
