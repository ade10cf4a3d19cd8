"""Measures parts one after the other, each beside those of the peers that have it."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Sequence

from rae_jax.benchmarking import comparison, compilation, data, report
from rae_jax.benchmarking.presets import PARTS, PRESETS, Settings
from rae_jax.benchmarking.report import Row
from rae_jax.benchmarking.sides import Elsewhere, offered
from rae_jax.configuration.section import nearest

OURS = "rae_jax.benchmarking.parts"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure, and how.

    Attributes:
        parts: Names, in their order.
        preset: Sizes of models and batches.
        peers: Modules or Python files; each is a side, or has `batches` for the part data.
        peer_path: Checkout of a peer's source.
        dtype: Compute dtype; "" is the preset's.
        batch_size: Images at a time; 0 is the preset's.
        points: Of the grid of times in sampling; 0 is the preset's.
        rounds: Measurements of every side.
        seconds: After which a part begins no further round; 0 for no limit.
        threads: Processor threads; 0 is all there are.
        compiled: Whether peers are compiled too.
        profile: Folder for profiles of our sides; "" for none.
        folder: Images of the part data; "" makes some up.
        images: So many of them.
    """

    parts: tuple[str, ...]
    preset: str = "cpu"
    peers: tuple[str, ...] = ()
    peer_path: str = ""
    dtype: str = ""
    batch_size: int = 0
    points: int = 0
    rounds: int = 3
    seconds: int = 0
    threads: int = 0
    compiled: bool = False
    profile: str = ""
    folder: str = ""
    images: int = 256

    def __post_init__(self) -> None:
        """Rejects names that there are not, and numbers that are none."""
        if not self.parts:
            raise ValueError(f"name what to measure, or pass --all: {', '.join(PARTS)}")
        for what, name, legal in (
            *(("part", part, PARTS) for part in self.parts),
            ("preset", self.preset, PRESETS),
            ("dtype", self.dtype or "float32", ("float32", "bfloat16")),
        ):
            if name not in legal:
                raise ValueError(f"unknown {what} {name!r}: {nearest(name, legal)}")
        for name, least in (
            *(("batch_size", 0), ("points", 0), ("threads", 0), ("seconds", 0)),
            *(("rounds", 1), ("images", 1)),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, got {getattr(self, name)}")
        if self.points == 1:
            raise ValueError("--points must be at least 2, the ends of one step, got 1")

    def settings(self, part: str) -> Settings:
        """Those of the sides of a part."""
        preset = PRESETS[self.preset]
        return Settings(
            part=part,
            preset=self.preset,
            batch_size=self.batch_size or preset.batch_sizes[part],
            dtype=self.dtype or preset.dtype,
            points=self.points or preset.points,
            threads=self.threads or report.num_cores(),
            compiled=self.compiled,
            path=self.peer_path and str(pathlib.Path(self.peer_path).absolute()),
        )


Outcome = dict[str, list[Row]] | Exception
"""Rows by the name of their table, or what went wrong."""


def measure(request: Request) -> Iterator[tuple[str, Outcome]]:
    """What every part gives, as soon as it is known; one that fails ends no other.

    Raises:
        ValueError: A peer cannot be loaded, or has none of the parts.
    """
    there = offered(request.peers)
    for peer, parts in there.items():
        if not parts & set(request.parts):
            raise ValueError(
                f"{peer} has the parts {', '.join(sorted(parts))}, none of which is asked for"
            )
    for part in request.parts:
        peers = tuple(peer for peer in request.peers if part in there[peer])
        try:
            yield part, _tables(part, peers, request)
        except (ValueError, OSError) as error:
            yield part, error


def _tables(part: str, peers: Sequence[str], request: Request) -> dict[str, list[Row]]:
    settings = request.settings(part)
    if part == "data":
        return {part: _data(settings, peers, request)}
    if part == "compile":
        return {part: compilation.measure(settings, min(request.rounds, 2))}
    sides: list[Elsewhere] = []
    try:
        for name in (OURS, *peers):
            sides.append(Elsewhere(name, settings))
        measured = comparison.take_turns(sides, request.rounds, request.seconds or math.inf)
        costs = []
        if request.profile:
            costs = sides[0].costs(str(pathlib.Path(request.profile).absolute() / part))
    finally:
        for side in sides:
            side.close()
    tables = {"parts": comparison.rows(settings, measured)}
    return tables | ({"costs": [{"part": part, **cost} for cost in costs]} if costs else {})


def _data(settings: Settings, peers: Sequence[str], request: Request) -> list[Row]:
    return data.measure(
        data.Settings(
            folder=request.folder,
            peers=tuple(peers),
            images=request.images,
            rounds=request.rounds,
            threads=settings.threads,
            batch_size=settings.batch_size,
        )
    )
