import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rae_jax.checkpointing.entries import abstract_plain
from rae_jax.sharding.mesh import batch_sharding, make_mesh, on_host, replicated


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1)),
        ({"data": 1, "fsdp": -1, "tensor": 2}, (1, 4, 2)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
    ],
)
def test_minus_one_takes_the_devices_left_over(sizes, expected):
    mesh = make_mesh(**sizes)
    assert tuple(mesh.shape.values()) == expected
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_mesh_of_given_devices():
    assert make_mesh(devices=jax.devices()[:3]).shape["data"] == 3


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3}, "number of devices, 8, got data=3"),
        ({"fsdp": 3}, "number of devices, 8, got data=-1, fsdp=3"),
        ({"fsdp": -1}, "only one mesh axis can be -1"),
        ({"tensor": 0}, "must be positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(**sizes)


def test_shardings_of_batches_and_whole_arrays():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    assert batch_sharding(mesh).shard_shape((8, 5)) == (2, 5)
    assert replicated(mesh).spec == PartitionSpec()


def test_what_is_made_on_the_host_is_placed_from_there(monkeypatch):
    # The devices of tests are those of the host; another one than the default stands in for it.
    (host, default), local_devices = jax.devices()[5:3:-1], jax.local_devices
    monkeypatch.setattr(
        jax, "local_devices", lambda **chosen: [host] if chosen else local_devices()
    )
    with jax.default_device(default), on_host():
        array = jnp.ones((8, 2))
        shape = abstract_plain(jax.ShapeDtypeStruct((8, 2), np.float32))
    assert array.devices() == shape.sharding.device_set == {host}
    assert len(jax.device_put(array, batch_sharding(make_mesh())).devices()) == 8


def test_without_a_host_backend_arrays_are_made_where_they_are_by_default(monkeypatch):
    def unknown(**chosen):
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(jax, "local_devices", unknown)
    with on_host():
        assert jnp.ones(3).devices() == {jax.devices()[0]}
