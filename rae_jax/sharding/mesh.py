"""The device mesh, with axes `data`, `fsdp` and `tensor`, and the shardings that batches take."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
"""Axes over which a batch is cut; the copies along `tensor` work on the same examples."""


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Mesh of all devices with axes `data`, `fsdp`, `tensor`.

    Args:
        data: Copies of the model that each take a part of the batch; -1 takes what is left over.
        fsdp: Parts into which parameters and batch are cut; -1 as above.
        tensor: Parts into which layers are cut across their width; -1 as above.
        devices: Devices to use, all of them unless given.

    Returns:
        Mesh with automatic axes: XLA completes the shardings that rules leave open.

    Raises:
        ValueError: The sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes: dict[str, int] = dict(zip(AXES, (data, fsdp, tensor), strict=True))
    wrong = {name: size for name, size in sizes.items() if size < 1 and size != -1}
    if wrong:
        raise ValueError(f"mesh axis sizes must be positive, or -1 to fill, got {wrong}")
    filled = [name for name, size in sizes.items() if size == -1]
    if len(filled) > 1:
        raise ValueError(f"only one mesh axis can be -1, got {filled}; give the others a size")
    given = math.prod(size for size in sizes.values() if size != -1)
    if filled and len(devices) % given == 0:
        sizes[filled[0]] = len(devices) // given
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            f"mesh axes must multiply to the number of devices, {len(devices)}, got "
            f"data={data}, fsdp={fsdp}, tensor={tensor}; change the sizes, or set one to -1"
        )
    # Axes are explicit by default, which would ask for a sharding at every matrix product.
    types = (AxisType.Auto,) * len(AXES)
    shape = tuple(sizes.values())
    try:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    except NotImplementedError:
        # An axis is no product of sides of the torus, such as 16 of 8 x 8: then it takes a part of
        # a side, which JAX wants to be told.
        arranged = create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(arranged, AXES, axis_types=types)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis over `data` and `fsdp`, the other axes whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def on_host() -> contextlib.AbstractContextManager[Any]:
    """Within it arrays are made in the memory of the host.

    What is read from files goes from there to its parts of the mesh, one array after the other,
    and is never whole on a single accelerator.
    """
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names the accelerator alone.
        return contextlib.nullcontext()
    return jax.default_device(device)
