import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import Buffer, Frozen, abstract, freeze, split


class Inner(nnx.Module):
    def __init__(self):
        self.kernel = nnx.Param(jnp.arange(3.0))
        self.table = Buffer(jnp.ones(2))


class Outer(nnx.Module):
    def __init__(self):
        self.inner = Inner()
        self.bias = nnx.Param(jnp.zeros(3))

    def __call__(self, x):
        return x * self.inner.kernel[...] + self.bias[...]


def test_split_and_merge_give_the_module_back():
    definition, params, buffers = split(Outer(), nnx.Param, Buffer)
    assert {*params} == {"inner", "bias"}
    assert {*params["inner"]} == {"kernel"} and {*buffers["inner"]} == {"table"}
    doubled = jax.tree.map(lambda leaf: leaf + 1, params)
    x = jnp.float32([1, 2, 3])
    np.testing.assert_array_equal(definition.merge(params, buffers)(x), [0, 2, 6])
    np.testing.assert_array_equal(definition.merge(doubled, buffers)(x), [2, 5, 10])
    np.testing.assert_array_equal(definition.merge(params, buffers)(x), [0, 2, 6])


def test_trees_must_be_as_many_as_were_split():
    definition, params, _ = split(Outer(), nnx.Param, Buffer)
    with pytest.raises(ValueError, match="expected 2 trees as split, got 1"):
        definition.merge(params)


def test_a_frozen_module_has_nothing_to_train_and_freezing_again_changes_nothing():
    module = Outer()
    assert freeze(module) is module
    once = nnx.graphdef(module)
    assert freeze(module) is module
    assert nnx.graphdef(module) == once
    _, trained, frozen = split(module, nnx.Param, Frozen)
    assert trained == {}
    assert {*frozen} == {"inner", "bias"} and {*frozen["inner"]} == {"kernel", "table"}
    np.testing.assert_array_equal(module(jnp.ones(3)), [0, 1, 2])


def test_abstract_modules_hold_shapes_alone():
    definition, shapes = split(abstract(Outer))
    leaves = jax.tree.leaves(shapes)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    _, arrays = split(Outer())
    np.testing.assert_array_equal(definition.merge(arrays)(jnp.ones(3)), [0, 1, 2])


def test_a_definition_prints_in_one_line():
    definition, _ = split(Outer())
    assert repr(definition) == "Definition(name='Outer')"
