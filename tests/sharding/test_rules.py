import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from rae_jax.layers.functional import split
from rae_jax.layers.stack import stack_layers
from rae_jax.sharding.mesh import make_mesh
from rae_jax.sharding.rules import require_cut, spec_for, tree_shardings
from rae_jax.training.optimizers import adamw
from rae_jax.training.state import TrainState

SIZES = {"data": 1, "fsdp": 4, "tensor": 2}


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("params.blocks.attention.qkv.kernel", (3, 8, 24), P(None, "fsdp", "tensor")),
        ("ema.blocks.mlp.down.kernel", (3, 24, 8), P(None, "tensor", "fsdp")),
        ("optimizer_state.1.0.mu.up.kernel", (8, 24), P("fsdp", "tensor")),
        # An axis that does not divide is left whole, and fsdp takes another.
        ("params.up.kernel", (6, 24), P(None, "tensor")),
        ("params.up.kernel", (8, 9), P("fsdp")),
        # No rule: the largest divisible axis, the layer axis only if nothing else will do.
        ("params.patch_embedding.kernel", (12, 16), P(None, "fsdp")),
        ("params.blocks.norm.scale", (8, 8), P(None, "fsdp")),
        ("params.blocks.norm.scale", (4, 7), P("fsdp")),
        ("params.norm.scale", (7,), P()),
        ("step", (), P()),
    ],
)
def test_cuts_by_path_and_shape(name, shape, expected):
    assert spec_for(name, shape, SIZES, min_size=1) == expected


def test_small_arrays_are_replicated():
    assert spec_for("params.up.kernel", (64, 64), SIZES) == P()
    assert spec_for("params.up.kernel", (256, 64), SIZES) == P("fsdp", "tensor")


def shapes_of(**kernels):
    return {
        name: {"kernel": jax.ShapeDtypeStruct(shape, np.float32)} for name, shape in kernels.items()
    }


XL = shapes_of(qkv=(28, 1152, 3456), out=(28, 1152, 1152), down=(28, 3072, 1152))


@pytest.mark.parametrize(
    "tree, sizes",
    [
        (XL, {"data": 16, "fsdp": 16, "tensor": 1}),
        (XL, {"data": 1, "fsdp": 128, "tensor": 2}),
        (XL, {"data": 256, "fsdp": 1, "tensor": 1}),
        # What no mesh cuts does not count.
        (shapes_of(up=(8, 24)), {"data": 1, "fsdp": 256, "tensor": 1}),
        # Little may stay whole.
        ({**XL, **shapes_of(table=(1001, 129))}, {"data": 1, "fsdp": 16, "tensor": 1}),
    ],
)
def test_meshes_that_cut_most_are_taken(tree, sizes):
    require_cut(tree, sizes)


@pytest.mark.parametrize(
    "tree, sizes, message",
    [
        (
            XL,
            {"data": 1, "fsdp": 256, "tensor": 1},
            r"mesh.fsdp must divide the widths of the model; 256 divides none that it could cut of "
            r"qkv.kernel \[28, 1152, 3456\] and of 1 more, so 60% of .*; "
            r"set mesh.data=2 mesh.fsdp=128 mesh.tensor=1 or mesh.fsdp to a smaller divisor",
        ),
        (
            shapes_of(gate_up=(2048, 10922), down=(5461, 2048)),
            {"data": 2, "fsdp": 16, "tensor": 4},
            r"mesh.tensor .* 4 divides none .* gate_up.kernel \[2048, 10922\] and of 1 more, so "
            r"100% .*; set mesh.data=8 mesh.fsdp=16 mesh.tensor=1",
        ),
    ],
)
def test_meshes_that_leave_much_whole_are_refused_with_sizes_that_do_not(tree, sizes, message):
    with pytest.raises(ValueError, match=message):
        require_cut(tree, sizes)


class _Block(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.up = nnx.Linear(16, 64, rngs=rngs)
        self.down = nnx.Linear(64, 16, rngs=rngs)

    def __call__(self, tokens):
        return tokens + self.down(nnx.gelu(self.up(tokens)))


def _create(key):
    blocks = stack_layers(lambda rngs: _Block(rngs=rngs), 2, nnx.Rngs(key))
    _, params = split(blocks, nnx.Param)
    optimizer = adamw(1e-2, beta_1=0.9, beta_2=0.95, weight_decay=0.0)
    return TrainState.create(params, {}, optimizer, key)


@pytest.mark.parametrize("sizes", [{}, {"fsdp": 8}, {"fsdp": 4, "tensor": 2}, {"fsdp": 2}])
def test_sharded_initial_state_and_step_equal_unsharded(sizes):
    key = jax.random.key(0)
    mesh = make_mesh(**{"data": -1, **sizes})
    shardings = tree_shardings(jax.eval_shape(_create, key), mesh, min_size=1)
    state = jax.jit(_create, out_shardings=shardings)(key)
    alone = jax.jit(_create)(key)
    assert jax.tree.structure(state) == jax.tree.structure(alone)
    jax.tree.map(np.testing.assert_array_equal, state.params, alone.params)
    kernels = [
        state.params["up"]["kernel"],
        state.ema["up"]["kernel"],
        optax.tree.get(state.optimizer_state, "mu")["up"]["kernel"],
    ]
    parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    for kernel in kernels:
        assert kernel.addressable_shards[0].data.size * parts == kernel.size

    definition, _ = split(
        nnx.eval_shape(lambda: stack_layers(lambda r: _Block(rngs=r), 2, nnx.Rngs(0))), nnx.Param
    )

    def loss(params, tokens):
        def body(tokens, block):
            return block(tokens), None

        return jnp.mean(jax.lax.scan(body, tokens, definition.merge(params))[0] ** 2)

    tokens = jax.random.normal(jax.random.key(1), (8, 16))
    with jax.set_mesh(mesh):
        gradients = jax.jit(jax.grad(loss))(state.params, tokens)
    expected = jax.jit(jax.grad(loss))(alone.params, tokens)
    jax.tree.map(
        # Sums over parts are rounded in another order; measured 3e-8.
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=3e-7),
        jax.device_get(gradients),
        jax.device_get(expected),
    )
