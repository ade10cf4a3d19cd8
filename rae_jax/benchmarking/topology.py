"""Programs compiled for TPU slices that are not at hand, and what the compiled form tells.

XLA's compiler for TPUs comes with `libtpu` and needs no device: a slice is described by its name,
such as "v5e:16x16".
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rae_jax.benchmarking import report
from rae_jax.benchmarking.hlo import KINDS, Module, Work
from rae_jax.benchmarking.programs import Program
from rae_jax.benchmarking.report import Row
from rae_jax.sharding.memory import memory

_GIB = 2**30
_LARGEST_HOST = 8
_MXU_LANES = {"v5e": 4 * 128**2, "v5p": 8 * 128**2, "v6e": 4 * 256**2, "tpu7x": 4 * 256**2}
"""Multiply-adds of a device in one cycle, which give its clock; that of v5e and v6e agrees with the
cycles that the compiler estimates for large products."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of a chip, by Google (docs.cloud.google.com/tpu/docs, page of the chip).

    Attributes:
        memory: GiB of HBM.
        compute: Dense bfloat16 operations per second.
        bandwidth: Bytes per second of HBM.
        interconnect: Bytes per second that it sends to its neighbours, all of them together; half
            of the figure published for both directions.
        axes: Dimensions of the torus.
        devices: Of JAX on one chip, which share all of this.
        host: Chips of one host in slices of several.
    """

    memory: float
    compute: float
    bandwidth: float
    interconnect: float
    axes: int
    devices: int = 1
    host: tuple[int, ...] = (2, 2, 1)


CHIPS: Mapping[str, Chip] = {
    "v5e": Chip(16.0, 197e12, 819e9, 200e9, axes=2),
    "v5p": Chip(95.0, 459e12, 2765e9, 600e9, axes=3),
    "v6e": Chip(32.0, 918e12, 1638e9, 400e9, axes=2),
    "tpu7x": Chip(192.0, 2307e12, 7380e9, 600e9, axes=3, devices=2),
}
"""By the first part of a topology's name."""

CPU = "cpu"
"""First part of the name of a topology of simulated devices, which only shows what is compiled."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices that programs can be compiled for.

    Attributes:
        name: As given.
        chip: Its figures; None for simulated devices.
        devices: As JAX describes them.
    """

    name: str
    chip: Chip | None
    devices: Sequence[Any]


def topology(name: str) -> Topology:
    """The slice called `name`.

    Args:
        name: "KIND:SIDExSIDE" with a key of `CHIPS` in any case, such as "v5e:16x16" or
            "v5p:4x4x2"; or "cpu:N" for the simulated devices of this process.

    Raises:
        ValueError: There is no such slice, or libtpu is not installed.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name.lower())
    if match is None or match[1] not in (*CHIPS, CPU):
        kinds = ", ".join(CHIPS)
        raise ValueError(
            f"--topology must be KIND:SIDExSIDE with one of {kinds}, such as 'v5e:16x16', or "
            f"'cpu:8', got {name!r}"
        )
    kind, sides = match[1], tuple(int(side) for side in match[2].split("x"))
    if kind == CPU:
        return Topology(name, None, _simulated(math.prod(sides)))
    chip = CHIPS[kind]
    if len(sides) != chip.axes:
        raise ValueError(
            f"{kind} slices have {chip.axes} sides, such as "
            f"'{kind}:{'x'.join(['4'] * chip.axes)}', got {name!r}"
        )
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise ValueError(
            "compiling for TPUs needs libtpu, which is not installed: pip install 'rae_jax[tpu]'"
        )
    # Chips of one host: the name does not tell, and slices below a host's size need it.
    alone = chip.axes == 2 and math.prod(sides) <= _LARGEST_HOST
    host = sides if alone else chip.host
    bounds = [min(ours, side) for ours, side in zip((*host, 1)[:3], (*sides, 1)[:3], strict=True)]
    # Else libtpu looks for the machine that it is not on, and for nobody else who compiles.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_WORKER_ID", "0")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    # What is compiled for devices that are not there cannot be read back.
    jax.config.update("jax_enable_compilation_cache", False)
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{kind}:{match[2]}", chips_per_host_bounds=bounds
        )
    except (RuntimeError, NotImplementedError, ValueError) as error:
        unknown = f"there is no slice {name!r}" if "INVALID" in str(error) else "libtpu fails"
        raise ValueError(f"{unknown}: {_first_line(error)}") from None
    return Topology(name, chip, found.devices)


def _simulated(count: int) -> Sequence[Any]:
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(f"this process has {len(devices)} simulated devices, not {count}")
    return devices[:count]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiled form of a program tells; bytes, operations and time are per device.

    Attributes:
        program: What was compiled.
        topology: For what.
        fits: Whether it did.
        seconds: That compiling took.
        needed: GiB that it would need where it does not fit, as the compiler says.
        memory: Kind -> bytes.
        operations: Floating-point operations of a call.
        work: Collectives, traffic, cycles; None where it does not fit.
    """

    program: Program
    topology: Topology
    fits: bool
    seconds: float
    needed: str
    memory: Mapping[str, int]
    operations: float
    work: Work | None

    @property
    def times(self) -> dict[str, float]:
        """Seconds that each resource alone would need for a call, at its published rate.

        The interconnect counts a group of n of N devices as spanning log(n) / log(N) of the
        torus' axes, whose links are all that it can use.
        """
        chip = self.topology.chip
        if chip is None or self.work is None:
            return {}
        share = chip.devices
        return {
            "compute": self.operations / (chip.compute / share),
            "memory": self.work.traffic / (chip.bandwidth / share),
            "interconnect": self.work.on_all_links(len(self.topology.devices))
            / (chip.interconnect / share),
        }

    @property
    def cycles_time(self) -> float | None:
        """Seconds of the compiler's own estimate of the cycles of all fused computations."""
        chip = self.topology.chip
        if chip is None or self.work is None or not self.work.cycles:
            return None
        lanes = _MXU_LANES[self.topology.name.lower().split(":")[0]]
        return self.work.cycles / (chip.compute / chip.devices / 2 / lanes)

    @property
    def row(self) -> Row:
        """Everything as one flat row; GiB, GB, teraoperations and milliseconds."""
        mesh = self.program.mesh.shape
        row: Row = {
            "program": self.program.name,
            "topology": self.topology.name,
            "devices": len(self.topology.devices),
            "mesh": "x".join(str(mesh[axis]) for axis in ("data", "fsdp", "tensor")),
            "images": self.program.images,
            "fits": self.fits,
            "needed": self.needed,
            "compile_s": self.seconds,
            **{f"{kind}_gib": size / _GIB for kind, size in self.memory.items()},
            "teraflop": self.operations / 1e12,
        }
        if self.work is None:
            return row
        row["traffic_gb"] = self.work.traffic / 1e9
        for kind in KINDS:
            count, sent = self.work.of_kind(kind)
            if count:
                row |= {f"{kind}_count": round(count), f"{kind}_gb": sent / 1e9}
        times = self.times
        row |= {f"{name}_ms": 1e3 * seconds for name, seconds in times.items()}
        if times:
            limit = max(times, key=lambda name: times[name])
            row |= {
                "limit": limit,
                "step_ms_at_least": 1e3 * times[limit],
                "images_per_s_at_most": self.program.images / times[limit],
            }
        if self.cycles_time is not None:
            row["compiler_estimate_ms"] = 1e3 * self.cycles_time
        return row


def compile_for(program: Program, where: Topology) -> Compiled:
    """Compiles `program` for the devices that it was made for; too little memory is no error."""
    operations = program.operations() / len(where.devices)
    arguments = {kind: _bytes(tree) for kind, tree in program.kinds.items()}
    start = time.perf_counter()
    try:
        compiled = program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise ValueError(f"the compiler gave up: {_first_line(error)}") from None
        seconds = time.perf_counter() - start
        needed = _first_line(error).removeprefix("RESOURCE_EXHAUSTED: ")
        return Compiled(program, where, False, seconds, needed, arguments, operations, work=None)
    seconds = time.perf_counter() - start
    used = compiled.memory_analysis()
    sizes = {
        **arguments,
        "outputs": used.output_size_in_bytes,
        "aliased": used.alias_size_in_bytes,
        "temporaries": used.temp_size_in_bytes,
        "code": used.generated_code_size_in_bytes,
    }
    sizes["total"] = (
        used.argument_size_in_bytes
        + used.output_size_in_bytes
        - used.alias_size_in_bytes
        + used.temp_size_in_bytes
        + used.generated_code_size_in_bytes
    )
    work = Module(compiled.as_text()).work
    return Compiled(program, where, True, seconds, "", sizes, operations, work)


def _bytes(tree: Any) -> int:
    shardings = jax.tree.map(lambda leaf: leaf.sharding, tree)
    return memory(tree, shardings).per_device


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def text(compiled: Compiled) -> str:
    """What is printed of a compiled program."""
    row, where = compiled.row, compiled.topology
    lines = [
        f"{row['program']} on {where.name}: {row['devices']} devices, mesh data x fsdp x tensor "
        f"{row['mesh']}, {row['images']} images per call; compiled in {compiled.seconds:.0f} s",
        "",
    ]
    sizes: list[Row] = [
        {"memory per device": kind, "GiB": size / _GIB} for kind, size in compiled.memory.items()
    ]
    lines += [report.table(sizes), ""]
    hold = f"{where.chip.memory / where.chip.devices:g} GiB" if where.chip else "unknown memory"
    if not compiled.fits:
        return "\n".join([*lines, f"does not fit into {hold}: {compiled.needed}"])
    lines += [f"fits into {hold}", ""]
    if compiled.work is not None:
        exchanges: list[Row] = []
        for kind in KINDS:
            count, sent = compiled.work.of_kind(kind)
            if count:
                exchanges.append({"collective": kind, "per call": round(count), "GB": sent / 1e9})
        lines += [report.table(exchanges), ""] if exchanges else ["no collectives", ""]
    amounts = {
        "compute": f"{compiled.operations / 1e12:.4g} TFLOP",
        "memory": f"{compiled.work.traffic / 1e9:.4g} GB" if compiled.work else "",
        "interconnect": f"{_sent(compiled):.4g} GB",
    }
    times: list[Row] = [
        {"per device": name, "amount": amounts[name], "ms at least": 1e3 * seconds}
        for name, seconds in compiled.times.items()
    ]
    if times:
        lines += [
            report.table(times),
            "",
            f"limited by {row['limit']}: a call takes {row['step_ms_at_least']:.4g} ms at least, "
            f"so {row['images_per_s_at_most']:.4g} images/s at most (published rates of the chip, "
            "all at once and never waiting)",
        ]
    if compiled.cycles_time is not None:
        lines.append(
            f"the compiler's own estimate, without exchanges: {1e3 * compiled.cycles_time:.4g} ms"
        )
    return "\n".join(lines)


def _sent(compiled: Compiled) -> float:
    return sum(compiled.work.sent.values()) / 1e9 if compiled.work else 0.0
