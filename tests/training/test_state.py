import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.training.optimizers import adamw
from rae_jax.training.state import TrainState

OPTIMIZER = adamw(0.1, beta_1=0.9, beta_2=0.95, weight_decay=0.0)


def _create():
    params = {"w": jnp.ones(3), "b": jnp.zeros((), jnp.bfloat16)}
    return TrainState.create(params, {"table": jnp.arange(2)}, OPTIMIZER, jax.random.key(1))


def test_new_state_can_be_donated():
    """The average starts as a copy of the parameters, not as the same buffer."""
    gradients = {"w": jnp.ones(3), "b": jnp.ones((), jnp.bfloat16)}
    for state in (_create(), jax.jit(_create)()):
        np.testing.assert_array_equal(state.ema["w"], state.params["w"])
        assert state.ema["b"].dtype == jnp.float32
        step = jax.jit(lambda s: s.updated(gradients, OPTIMIZER, 0.5), donate_argnums=0)
        new = step(state)
        assert int(new.step) == 1
        np.testing.assert_allclose(new.params["w"], 0.9, rtol=1e-5)
        np.testing.assert_allclose(new.ema["w"], 0.95, rtol=1e-5)
        np.testing.assert_array_equal(new.buffers["table"], [0, 1])


def test_state_also_holds_shapes():
    shapes = jax.eval_shape(_create)
    assert shapes.params["w"].shape == (3,)
    assert jax.tree.structure(shapes) == jax.tree.structure(_create())
