import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.sharding.constrain import constrain_batch
from rae_jax.sharding.mesh import make_mesh


def test_without_a_mesh_nothing_changes():
    x = jnp.ones((3, 2))
    assert constrain_batch(x) is x
    assert "sharding_constraint" not in str(jax.make_jaxpr(constrain_batch)(x))


def test_under_a_mesh_the_batch_is_cut():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    x = np.arange(16, dtype=np.float32).reshape(8, 2)
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: constrain_batch(x * 2))(x)
        eager = constrain_batch(jnp.asarray(x))
    assert y.sharding.shard_shape(y.shape) == (2, 2)
    np.testing.assert_array_equal(y, 2 * x)
    np.testing.assert_array_equal(eager, x)


def test_a_batch_that_does_not_divide_is_left_alone():
    with jax.set_mesh(make_mesh()):
        assert jax.jit(constrain_batch)(jnp.ones((3, 2))).shape == (3, 2)
        assert "sharding_constraint" not in str(jax.make_jaxpr(constrain_batch)(jnp.ones((3, 2))))
