"""Changes to a configuration that make a program fit, each of them compiled."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from rae_jax.benchmarking.programs import Program
from rae_jax.benchmarking.topology import Compiled, Topology, compile_for
from rae_jax.configuration.schema import SamplingConfig, Stage1Config, Stage2Config

Config = Stage1Config | Stage2Config | SamplingConfig

_CUT = 16
"""Parts that cut the state enough, and divide all published widths."""


def fitting(
    config: Any, build: Callable[[Any], Program], where: Topology, *, tries: int
) -> Iterator[tuple[dict[str, Any], Compiled]]:
    """Compiles changes of `config`, the cheapest first and each on top of those before it.

    Ends with the first that fits, or after so many.

    Args:
        config: That does not fit.
        build: Program of a configuration.
        where: Devices.
        tries: How many to compile at most.

    Yields:
        Overrides of `config` by dotted key, and what came of them.
    """
    overrides: dict[str, Any] = {}
    for change in list(_changes(config, len(where.devices)))[:tries]:
        overrides |= change
        compiled = compile_for(build(changed(config, overrides)), where)
        yield dict(overrides), compiled
        if compiled.fits:
            return


def changed(config: Any, overrides: dict[str, Any]) -> Any:
    """`config` with other values by dotted key."""
    for name, value in overrides.items():
        section, _, key = name.rpartition(".")
        if section:
            inner = dataclasses.replace(getattr(config, section), **{key: value})
            config = dataclasses.replace(config, **{section: inner})
        else:
            config = dataclasses.replace(config, **{key: value})
    return config


def _changes(config: Config, num_devices: int) -> Iterator[dict[str, Any]]:
    """What saves memory, in the order of what it costs."""
    if config.mesh.fsdp == 1 and config.mesh.tensor == 1 and num_devices > 1:
        # Costs exchanges that mostly go on beside the work.
        fsdp = math.gcd(num_devices, _CUT)
        yield {"mesh.data": num_devices // fsdp, "mesh.fsdp": fsdp}
    if isinstance(config, SamplingConfig):
        size = config.batch_size
        while size >= 2 * num_devices:
            size //= 2
            yield {"batch_size": size}
        return
    # "dots" computes little again, "full" a third of the work.
    policies = {"none": ("dots", "full"), "dots": ("full",), "full": ()}
    for remat in policies[config.remat]:
        yield {"remat": remat}
    parts = config.gradient_accumulation
    while config.global_batch_size % (2 * parts * num_devices) == 0:
        parts *= 2
        yield {"gradient_accumulation": parts}
