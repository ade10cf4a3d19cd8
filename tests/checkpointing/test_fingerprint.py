import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rae_jax.checkpointing.fingerprint import fingerprints, signature
from rae_jax.sharding.mesh import make_mesh


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_any_flipped_bit_shows(dtype):
    generator = np.random.default_rng(0)
    values = np.asarray(jnp.asarray(generator.integers(0, 2, (3, 5, 7)), dtype))
    whole = fingerprints({"x": jnp.asarray(values)})
    raw = bytearray(values.tobytes())
    for _ in range(20):
        place = generator.integers(len(raw))
        bit = 1 if dtype == "bool" else 1 << generator.integers(8)
        damaged = bytearray(raw)
        damaged[place] ^= bit
        array = np.frombuffer(bytes(damaged), values.dtype).reshape(values.shape)
        assert fingerprints({"x": jnp.asarray(array)}) != whole


def test_swapped_values_names_and_shapes_show():
    x = jnp.arange(6.0)
    variants = [
        {"a": x, "b": x + 1},
        {"b": x, "a": x + 1},
        {"a": x[::-1], "b": x + 1},
        {"a": x.reshape(2, 3), "b": x + 1},
        {"a": x, "c": x + 1},
        {"a": x.astype(jnp.bfloat16), "b": x + 1},
        {"a": -0.0 * x, "b": x},
        {"a": 0.0 * x, "b": x},
    ]
    found = [fingerprints({"params": variant})["params"] for variant in variants]
    assert len(set(found)) == len(found)


def test_every_entry_has_its_own():
    one = fingerprints({"params": jnp.ones(3), "ema": jnp.ones(3), "step": jnp.int32(1)})
    other = fingerprints({"params": jnp.ones(3), "ema": jnp.zeros(3), "step": jnp.int32(1)})
    assert [name for name in one if one[name] != other[name]] == ["ema"]


@pytest.mark.parametrize("spec", [PartitionSpec("data"), PartitionSpec(None, ("data", "fsdp"))])
def test_sharding_does_not_matter(spec):
    array = jax.random.normal(jax.random.key(0), (16, 32))
    cut = jax.device_put(array, NamedSharding(make_mesh(fsdp=2), spec))
    assert fingerprints({"x": cut}) == fingerprints({"x": array})


def test_signature_names_types_and_shapes():
    tree = {"a": {"b": jnp.ones((2, 3))}, "c": (jnp.int32(1),)}
    assert signature(tree) == {"a.b": "float32[2,3]", "c.0": "int32[]"}
