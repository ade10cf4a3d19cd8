"""States of real runs come back on other meshes than they were saved from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.sharding.mesh import make_mesh
from rae_jax.sharding.rules import tree_shardings
from rae_jax.training import stage1, stage2
from tests.checkpointing.states import assert_same_bits
from tests.faults.starts import config

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

MESHES = ({"data": 8}, {"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2})


def filled(leaf, generator):
    """Any values of the leaf's type."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(5)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return generator.normal(size=leaf.shape).astype(leaf.dtype)
    return generator.integers(0, 9, leaf.shape).astype(leaf.dtype)


def placed(shapes, sizes):
    shardings = tree_shardings(shapes, make_mesh(**sizes), min_size=1)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


@pytest.mark.parametrize("kind, stage", [("gan", stage1), ("stage2", stage2)])
def test_whole_states_come_back_on_other_meshes_bit_for_bit(kind, stage, tmp_path):
    shapes = jax.eval_shape(stage.make_job(config(kind)).initial_state)
    generator = np.random.default_rng(0)
    state = jax.tree.map(lambda leaf: filled(leaf, generator), shapes)
    entries = set(vars(state))
    assert {"params", "ema", "optimizer_state", "key", "step"} <= entries
    assert ("discriminator" in entries) == (kind == "gan")
    for step, sizes in enumerate(MESHES):
        there = jax.tree.map(
            lambda leaf, at: jax.device_put(leaf, at.sharding), state, placed(shapes, sizes)
        )
        with CheckpointManager(tmp_path, keep_last=9) as manager:
            manager.save(step, there, {})
            manager.wait()
            wanted = placed(shapes, MESHES[(step + 1) % len(MESHES)])
            restored = manager.restore_latest(wanted)
            assert restored.step == step
            assert_same_bits(restored.state, there)
            cuts = jax.tree.map(
                lambda leaf, at: leaf.sharding == at.sharding, restored.state, wanted
            )
            assert all(jax.tree.leaves(cuts))
            assert_same_bits(manager.restore_latest(shapes).state, there)
