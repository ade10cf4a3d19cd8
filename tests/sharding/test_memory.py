import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rae_jax.sharding.memory import in_bytes, memory, report
from rae_jax.sharding.mesh import make_mesh, replicated
from rae_jax.sharding.rules import tree_shardings

TREE = {
    "up": {"kernel": jax.ShapeDtypeStruct((256, 1024), np.float32)},
    "down": {"kernel": jax.ShapeDtypeStruct((1024, 256), np.float16)},
    "norm": {"scale": jax.ShapeDtypeStruct((256,), np.float32)},
}


@pytest.mark.parametrize(
    "sizes, parts", [((8, 1, 1), 1), ((2, 4, 1), 4), ((1, 8, 1), 8), ((2, 2, 2), 4)]
)
def test_bytes_shrink_by_the_parts_that_arrays_are_cut_into(sizes, parts):
    found = memory(TREE, tree_shardings(TREE, make_mesh(*sizes)))
    assert found.total == 4 * 2**18 + 2 * 2**18 + 1024
    assert found.per_device == 6 * 2**18 // parts + 1024
    assert found.whole.items() >= {("norm.scale", 1024)}
    assert len(found.whole) == (3 if parts == 1 else 1)


def test_bytes_are_those_that_devices_hold():
    mesh = make_mesh(fsdp=4)
    tree = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), TREE)
    shardings = tree_shardings(tree, mesh)
    placed = jax.device_put(tree, shardings)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(placed))
    assert memory(tree, shardings).per_device == held


def test_the_report_names_what_is_whole():
    mesh = make_mesh(fsdp=8, data=1)
    cut = NamedSharding(mesh, PartitionSpec("fsdp"))
    shape = jax.ShapeDtypeStruct((1000, 250), np.float32)
    assert report({"params": ({"a": shape}, {"a": cut}), "frozen": ({}, {})}) == (
        "memory per device: params 125 KB (12.5% of 1 MB); together 125 KB; "
        "whole on every device: 0 B in 0 arrays"
    )
    trees = {
        "params": ({"a": shape}, {"a": cut}),
        "frozen": ({"b": shape}, {"b": replicated(mesh)}),
    }
    assert report(trees) == (
        "memory per device: params 125 KB (12.5% of 1 MB), frozen 1 MB (100.0% of 1 MB); "
        "together 1.12 MB; whole on every device: 1 MB in 1 arrays, the largest frozen.b 1 MB"
    )


@pytest.mark.parametrize("size, text", [(17, "17 B"), (4321, "4.32 KB"), (3.35e9, "3.35 GB")])
def test_bytes_in_words(size, text):
    assert in_bytes(int(size)) == text
