import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.ops.modulation import gate, modulate

TOKENS, SHIFT, SCALE = jax.random.normal(jax.random.key(0), (3, 2, 12, 5))


@pytest.mark.parametrize("count", [1, 3, 12])
def test_each_condition_acts_on_its_run_of_tokens(count):
    shift, scale = SHIFT[:, :count], SCALE[:, :count]
    wide_shift, wide_scale = (np.repeat(x, 12 // count, axis=1) for x in (shift, scale))
    np.testing.assert_allclose(
        modulate(TOKENS, shift, scale), TOKENS * (1 + wide_scale) + wide_shift, atol=1e-6
    )
    np.testing.assert_array_equal(gate(TOKENS, scale), TOKENS * wide_scale)


def test_shift_may_be_absent():
    np.testing.assert_array_equal(
        modulate(TOKENS, None, SCALE), modulate(TOKENS, jnp.zeros_like(SHIFT), SCALE)
    )


def test_the_dtype_of_the_tokens_decides():
    shift, scale = SHIFT.astype(jnp.bfloat16), SCALE.astype(jnp.bfloat16)
    assert modulate(TOKENS, shift, scale).dtype == jnp.float32
    assert gate(TOKENS, scale).dtype == jnp.float32


def test_conditions_must_divide_the_tokens():
    with pytest.raises(ValueError, match="got 5 conditions for 12 tokens"):
        modulate(TOKENS, SHIFT[:, :5], SCALE[:, :5])
