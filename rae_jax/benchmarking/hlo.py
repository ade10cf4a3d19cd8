"""Reads the optimised module that XLA gives back: collectives, traffic of memory, cycles.

Everything in the body of a loop counts as often as the loop runs, and of the branches of a
conditional the one with the most traffic. Bytes are those of one device.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.-]+) = (.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_OPCODE = re.compile(r" ([a-z][\w-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply)=%([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%([\w.-]+)")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(.*?\))? \{([^}]*)\}")
_ON_CHIP = re.compile(r"S\((\d+)\)")

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id"),
    *("copy-done", "slice-done", "while", "conditional", "call", "after-all", "iota"),
    *("optimization-barrier", "add-dependency"),
    *(f"{kind}-done" for kind in KINDS),
}
_SLICES = ("dynamic-slice", "slice", "gather")


class Collective(NamedTuple):
    """One exchange between devices.

    Attributes:
        kind: One of `KINDS`.
        group: Devices that take part in it together.
        bytes: That one of them sends, in the usual ring.
    """

    kind: str
    group: int
    bytes: float


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does in one call.

    Attributes:
        counts: (kind of collective, devices in a group) -> how often.
        sent: Of the same -> bytes sent.
        traffic: Bytes read from and written to the main memory.
        cycles: Of the fused computations, as the compiler estimates them; 0 where it does not.
    """

    counts: Mapping[tuple[str, int], float]
    sent: Mapping[tuple[str, int], float]
    traffic: float
    cycles: float

    def of_kind(self, kind: str) -> tuple[float, float]:
        """How often a kind of collective comes, in groups of any size, and what it sends."""
        keys = [key for key in self.counts if key[0] == kind]
        counts, sizes = ([known[key] for key in keys] for known in (self.counts, self.sent))
        return float(sum(counts)), float(sum(sizes))

    def on_all_links(self, num_devices: int) -> float:
        """Bytes sent, as if they went over all links of a device.

        A group of n of N devices spans log(n) / log(N) of the axes of the torus, whose links are
        all that it can use.
        """
        whole = math.log(max(num_devices, 2))
        shares = ((size, math.log(max(group, 2)) / whole) for (_, group), size in self.sent.items())
        return float(sum(size / share for size, share in shares))


@dataclasses.dataclass
class _Instruction:
    name: str
    opcode: str
    shape: str
    operands: list[str]
    rest: str


class Module:
    """The text of an optimised module, taken apart.

    Args:
        text: As `compiled.as_text()` gives it.
    """

    def __init__(self, text: str):
        self._computations: dict[str, dict[str, _Instruction]] = {}
        self._entry = ""
        current: dict[str, _Instruction] = {}
        for line in text.splitlines():
            if not line.startswith(" "):
                match = _COMPUTATION.match(line)
                if match:
                    current = self._computations.setdefault(match[2], {})
                    self._entry = match[2] if match[1] else self._entry
                continue
            match = _INSTRUCTION.match(line)
            if match:
                instruction = _parsed(match[1], match[2])
                current[instruction.name] = instruction

    @functools.cached_property
    def work(self) -> Work:
        """All that a call does."""
        return self._work(self._entry)

    def _work(self, name: str) -> Work:
        counts: dict[tuple[str, int], float] = collections.defaultdict(float)
        sent: dict[tuple[str, int], float] = collections.defaultdict(float)
        traffic, cycles = 0.0, 0.0
        seen: set[tuple[str, str]] = set()
        computation = self._computations[name]
        for instruction in computation.values():
            for inner, times in self._inner(instruction):
                for kind, number in inner.counts.items():
                    counts[kind] += times * number
                    sent[kind] += times * inner.sent[kind]
                traffic += times * inner.traffic
                cycles += times * inner.cycles
            for key, found in self._collectives(instruction, computation):
                # The pieces that an exchange is cut into, to hide it, share one channel.
                if key not in seen:
                    seen.add(key)
                    counts[found.kind, found.group] += 1
                    sent[found.kind, found.group] += found.bytes
            traffic += self._traffic(instruction, computation)
            match = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
            cycles += int(match[1]) if match else 0
        return Work(counts, sent, traffic, cycles)

    def _inner(self, instruction: _Instruction) -> Iterator[tuple[Work, int]]:
        """Work of the computations that an instruction runs, and how often."""
        if instruction.opcode == "while":
            body = re.search(r"body=%([\w.-]+)", instruction.rest)
            if body:
                yield self._work(body[1]), self._trips(instruction)
        elif instruction.opcode == "conditional":
            names = [
                name.strip(" %")
                for many, one in _BRANCHES.findall(instruction.rest)
                for name in (many.split(",") if many else [one])
            ]
            branches = [self._work(name) for name in names]
            yield max(branches, key=lambda work: work.traffic + sum(work.sent.values())), 1
        elif instruction.opcode == "call":
            called = _CALLED.search(instruction.rest)
            if called:
                yield self._work(called[1]), 1

    def _trips(self, loop: _Instruction) -> int:
        """Iterations, which the compiler notes, or the bound that the condition compares with."""
        noted = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
        if noted:
            return int(noted[1])
        condition = re.search(r"condition=%([\w.-]+)", loop.rest)
        if condition is None:
            return 1
        bounds = [
            int(value[1])
            for instruction in self._reached(condition[1])
            if instruction.opcode == "constant"
            and instruction.shape.startswith(("s32[]", "u32[]"))
            and (value := re.match(r"(\d+)\)", instruction.rest))
        ]
        # A loop without a bound of its own ends by what it computes, so it counts once.
        return max(bounds, default=1)

    def _reached(self, name: str) -> Iterator[_Instruction]:
        for instruction in self._computations[name].values():
            yield instruction
            for called in _CALLED.findall(instruction.rest):
                yield from self._reached(called)

    def _collectives(
        self, instruction: _Instruction, computation: Mapping[str, _Instruction]
    ) -> Iterator[tuple[tuple[str, str], Collective]]:
        """The exchanges of an instruction and of what is fused into it."""
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            yield (instruction.name, ""), _collective(kind, instruction, computation)
        if instruction.opcode in ("while", "conditional", "call"):
            return
        for called in _CALLED.findall(instruction.rest):
            scatters = "reduce-scatter" in called or "all-reduce-scatter" in called
            inside = self._computations.get(called, {})
            for inner in inside.values():
                kind = inner.opcode.removesuffix("-start")
                if kind not in KINDS:
                    continue
                if scatters and kind == "all-reduce":
                    kind = "reduce-scatter"
                channel = re.search(r"channel_id=(\d+)", inner.rest)
                owner = called if scatters or channel is None else channel[1]
                yield (kind, owner), _collective(kind, inner, inside)

    def _traffic(self, instruction: _Instruction, computation: Mapping[str, _Instruction]) -> int:
        """Bytes between the chip and its main memory."""
        opcode = instruction.opcode
        if opcode in _FREE or "AllocateBuffer" in instruction.rest:
            return 0
        inside, parameters = self._fused(instruction) if opcode == "fusion" else ({}, {})
        total, updated = 0, 0
        for position, operand in enumerate(instruction.operands):
            source = computation.get(operand)
            if source is None or opcode in _SLICES or opcode == "dynamic-update-slice":
                continue
            size = _size(source.shape)
            parameter = parameters.get(position)
            if parameter is not None and size:
                read, replaced = self._uses(parameter.name, inside, size)
                size, updated = read, updated + replaced
            total += size
        written = _size(instruction.shape)
        if opcode.endswith("-start"):
            # The result of a start repeats its operand.
            written = total
            return total if opcode in ("copy-start", "slice-start") else total + written
        if opcode in _SLICES:
            return 2 * written
        if opcode == "dynamic-update-slice":
            update = computation.get(instruction.operands[1])
            return 2 * _size(update.shape) if update else 0
        return total + max(written - updated, 0)

    def _uses(self, name: str, inside: Mapping[str, _Instruction], size: int) -> tuple[int, int]:
        """Bytes that a fusion reads of a parameter of so many, and how many it leaves alone."""
        names, read, kept = {name}, 0, 0
        for inner in inside.values():
            if not names & set(inner.operands):
                continue
            if inner.opcode == "bitcast":
                names.add(inner.name)
            elif inner.opcode in _SLICES:
                read += _whole_size(inner.shape)
            elif inner.opcode == "dynamic-update-slice" and inner.operands[0] in names:
                update = inside.get(inner.operands[1])
                kept = size - (_whole_size(update.shape) if update else 0)
            elif inner.opcode == "fusion":
                nested, parameters = self._fused(inner)
                for position, operand in enumerate(inner.operands):
                    if operand in names and position in parameters:
                        more, rest = self._uses(parameters[position].name, nested, size)
                        read, kept = read + more, max(kept, rest)
            elif inner.opcode != "tuple":
                return size, 0
        return min(read, size), kept

    def _fused(
        self, fusion: _Instruction
    ) -> tuple[Mapping[str, _Instruction], dict[int, _Instruction]]:
        """The computation of a fusion, and its parameters by position."""
        called = _CALLED.search(fusion.rest)
        inside = self._computations.get(called[1], {}) if called else {}
        return inside, {
            int(number[1]): inner
            for inner in inside.values()
            if inner.opcode == "parameter" and (number := re.match(r"(\d+)\)", inner.rest))
        }


def _parsed(name: str, text: str) -> _Instruction:
    match = _OPCODE.search(" " + text)
    if match is None:
        return _Instruction(name, "", text, [], "")
    shape, rest = text[: max(match.start() - 1, 0)], text[match.end() - 1 :]
    opening = rest.split(")", 1)[0]
    return _Instruction(name, match[1], shape, re.findall(r"%([\w.-]+)", opening), rest)


def _size(shape: str) -> int:
    """Bytes of the arrays of a shape that lie in the main memory."""
    return sum(
        _array_bytes(kind, sizes)
        for kind, sizes, layout in _ARRAY.findall(shape)
        if _ON_CHIP.search(layout) is None
    )


def _whole_size(shape: str) -> int:
    """Bytes of the arrays of a shape wherever they lie."""
    return sum(_array_bytes(kind, sizes) for kind, sizes, _ in _ARRAY.findall(shape))


def _array_bytes(kind: str, sizes: str) -> int:
    return _BYTES.get(kind, 0) * math.prod(int(size) for size in sizes.split(",") if size)


def _collective(
    kind: str, instruction: _Instruction, computation: Mapping[str, _Instruction]
) -> Collective:
    group = _group(instruction.rest)
    given = sum(
        _whole_size(computation[name].shape) for name in instruction.operands if name in computation
    )
    share = (group - 1) / group
    sent = {
        "all-gather": given * (group - 1),
        "all-reduce": 2 * given * share,
        "reduce-scatter": given * share,
        "all-to-all": given * share,
        "collective-permute": given,
    }
    return Collective(kind, group, float(sent[kind]))


def _group(text: str) -> int:
    """Devices in each group of a collective, however the groups are written."""
    mesh = _MESH.search(text)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    counted = re.search(r"replica_groups=\[(\d+),(\d+)\]", text)
    if counted:
        return int(counted[2])
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", text)
    if listed:
        return max(len(listed[1].split(",")), 1)
    return 2
