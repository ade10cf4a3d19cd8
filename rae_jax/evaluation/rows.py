"""Functions of single images, pairs or points, compiled and run over all devices of a process.

A score is only comparable if its features do not depend on how they were computed. So every
device always works on the same number of rows, the last ones filled up, and each process on its
own devices alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from rae_jax.sharding.mesh import BATCH_AXES, batch_sharding, make_mesh, replicated
from rae_jax.typing import Array, Shaped, Tree


class RowFunction:
    """A function of rows, each for itself, compiled once and run over all devices.

    Attributes:
        chunk: Rows at a time over the devices of this process.
    """

    def __init__(
        self,
        function: Callable[..., dict[str, Array]],
        arrays: Tree,
        *,
        num_inputs: int = 1,
        rows: int = 32,
        devices: list[Any] | None = None,
        double: bool = False,
    ):
        """Places the arrays on the devices.

        Args:
            function: Pure `(arrays, *inputs) -> named rows`; each depends on its own inputs alone.
            arrays: Its first argument.
            num_inputs: Number of the others.
            rows: Rows at a time per device.
            devices: Those of this process unless given.
            double: Let the function compute in float64.
        """
        devices = jax.local_devices() if devices is None else devices
        self._double = double
        self._mesh = mesh = make_mesh(devices=devices)
        self.chunk = rows * len(devices)
        self._sharding = batch_sharding(mesh)
        self._arrays = jax.device_put(arrays, replicated(mesh))
        rows_of = PartitionSpec(BATCH_AXES)
        # Every device runs the program of `rows` images by itself: how XLA arranges the work of a
        # batch, and with it the last bits, cannot depend on the number of devices.
        self._function = jax.jit(
            jax.shard_map(
                function,
                mesh=mesh,
                in_specs=(PartitionSpec(), *num_inputs * (rows_of,)),
                out_specs=rows_of,
                check_vma=False,
            )
        )

    def __call__(self, *inputs: Shaped[np.ndarray, "N ..."]) -> dict[str, np.ndarray]:
        """Results of any number of rows, at least one.

        Raises:
            ValueError: There are none.
        """
        count = len(inputs[0])
        if not count:
            raise ValueError("features need at least one image")
        parts: list[dict[str, np.ndarray]] = []
        pending: dict[str, Array] | None = None
        for start in range(0, count, self.chunk):
            rows = np.minimum(np.arange(start, start + self.chunk), count - 1)
            # In training, the mesh of the step is set while this runs.
            with jax.set_mesh(self._mesh), jax.enable_x64(self._double):
                placed = [jax.device_put(values[rows], self._sharding) for values in inputs]
                started = self._function(self._arrays, *placed)
            # The devices work on the next images while the last ones' features come back.
            if pending is not None:
                parts.append(jax.device_get(pending))
            pending = started
        parts.append(jax.device_get(pending))
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}
