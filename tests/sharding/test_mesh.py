import jax
import pytest
from jax.sharding import AxisType, PartitionSpec

from rae_jax.sharding.mesh import batch_sharding, make_mesh, replicated


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
