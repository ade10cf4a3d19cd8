"""One program run by every device by itself, each on its own rows."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rae_jax.sharding.mesh import batch_sharding, make_mesh, replicated
from rae_jax.typing import PyTree, Shaped, Tree


def on_each_device(
    function: Callable[..., PyTree], arrays: Tree, devices: Sequence[Any]
) -> Callable[..., PyTree]:
    """Function of host rows that all devices work on together.

    How XLA arranges the work of a batch, and with it the last bits, cannot depend on the number of
    devices, because each of them runs the program of its own rows alone.

    Args:
        function: Pure `(arrays, *inputs) -> results`, of the rows of one device.
        arrays: Its first argument.
        devices: Of this process.

    Returns:
        Function of the inputs, equally many rows for each device. Its results have the rows of
        all devices, in order. It returns while these are still at work.
    """
    mesh = make_mesh(devices=devices)
    cut, whole = batch_sharding(mesh), replicated(mesh)
    placed = jax.device_put(arrays, whole)

    def body(arrays: Tree, inputs: tuple[PyTree, ...]) -> PyTree:
        return function(arrays, *inputs)

    compiled = jax.jit(
        jax.shard_map(
            body, mesh=mesh, in_specs=(whole.spec, cut.spec), out_specs=cut.spec, check_vma=False
        )
    )

    def run(*inputs: Shaped[np.ndarray, "N ..."]) -> PyTree:
        with jax.set_mesh(mesh):
            return compiled(placed, jax.device_put(inputs, cut))

    return run
