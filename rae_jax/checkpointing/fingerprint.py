"""Bit-exact fingerprints of trees of arrays.

Data files carry no checksum: one flipped byte restores without an error and with another value.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import UInt32

from rae_jax.typing import Array, PyTree

_WORDS = {1: jnp.uint8, 2: jnp.uint16}


def _mixed(words: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """MurmurHash3's finalizer (Appleby 2011): one to one, and every bit sways every other."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> 16)


def _bit_sum(array: Array) -> UInt32[Array, ""]:
    """Sum over the elements of a hash of their bits and their place.

    The hash is one to one at every place, so any single changed element changes the sum. Places
    are counted axis by axis: flattening would gather an array that is cut over devices.
    """
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    word = _WORDS.get(array.dtype.itemsize, jnp.uint32)
    bits = jax.lax.bitcast_convert_type(array, word).astype(jnp.uint32)
    place, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = place + index * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.sum(_mixed(bits ^ _mixed(place)), dtype=jnp.uint32)


_jitted_bit_sum = jax.jit(_bit_sum)


def _sums(tree: PyTree) -> list[Array]:
    # Leaf by leaf: one program of all would hold the bits of all at a time. And one after the
    # other: sums over devices that are under way together can wait for each other forever on CPU.
    return [jax.block_until_ready(_jitted_bit_sum(leaf)) for leaf in jax.tree.leaves(tree)]


def signature(tree: PyTree) -> dict[str, str]:
    """Dotted path -> data type and shape ("float32[28,1152]") of every leaf."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            f"{leaf.dtype.name}[{','.join(map(str, leaf.shape))}]"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def digest(value: Any) -> str:
    """Short hash of a JSON value."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprints(entries: Mapping[str, PyTree]) -> dict[str, str]:
    """Fingerprint of every entry of a state: equal only if names, types, shapes and bits are.

    Works on arrays cut in any way over any mesh; the result does not depend on it.
    """
    sums = jax.device_get({name: _sums(tree) for name, tree in entries.items()})
    return {
        name: digest([signature(tree), [int(value) for value in sums[name]]])
        for name, tree in entries.items()
    }
