"""Small train states for the checkpoint tests."""

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.training.optimizers import adamw
from rae_jax.training.state import TrainState

OPTIMIZER = adamw(1e-3, beta_1=0.9, beta_2=0.95, weight_decay=0.0)


def make_state(seed, width=16):
    """A state whose every array depends on `seed`."""
    key = jax.random.key(seed)
    params = {
        "blocks": {"up": {"kernel": jax.random.normal(key, (2, width, 64))}},
        "scale": jnp.arange(5, dtype=jnp.bfloat16) + jnp.bfloat16(seed),
    }
    buffers = {"table": jnp.arange(6, dtype=jnp.float32) + seed}
    state = TrainState.create(params, buffers, OPTIMIZER, key)
    gradients = jax.tree.map(jnp.ones_like, params)
    return state.updated(gradients, OPTIMIZER, 0.9).replace(step=jnp.int32(seed))


def assert_same_bits(one, other):
    """Fails unless both trees have the same names, types and bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
