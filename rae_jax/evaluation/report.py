"""Results of evaluations: a table to read, JSON to keep, pictures to look at."""

import dataclasses
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np

from rae_jax import __version__
from rae_jax.evaluation.references import SetStatistics
from rae_jax.files import replacing

FILE = "scores.json"
FULL_COUNT = 50_000
"""Images that published scores are of."""

_PACKAGES = ("jax", "flax", "numpy", "scipy", "pillow")


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores with what they depend on.

    Attributes:
        scores: By name, in the order they are shown.
        extractor: Label of the network whose features were compared; "" if none was.
        sets: Facts of each set of images: name, count, size, purpose.
        settings: What else the scores depend on.
        warnings: Why they may not compare with others, a sentence each.
    """

    scores: Mapping[str, float]
    extractor: str
    sets: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...]

    def table(self) -> str:
        """The scores as lines of text, with the network, the sets and the warnings."""
        width = max(map(len, self.scores))
        lines = [f"{name:<{width}}  {value:.6g}" for name, value in self.scores.items()]
        if self.extractor:
            lines.append(f"features: {self.extractor}")
        for role, facts in self.sets.items():
            known = [f"{facts['count']:,} images"] if facts["count"] else []
            if facts["image_size"]:
                known.append("{} x {} pixels".format(*facts["image_size"][::-1]))
            lines.append(f"{role}: {', '.join([facts['name'], *known])}")
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])

    def save(self, folder: str | pathlib.Path) -> pathlib.Path:
        """Writes `scores.json`, with the versions of what computed them; gives its path."""
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        content = {
            **dataclasses.asdict(self),
            "versions": {"rae_jax": __version__, "python": platform.python_version(), **versions},
        }
        path = pathlib.Path(folder) / FILE
        with replacing(path) as partial:
            partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        return path


def facts(statistics: SetStatistics) -> dict[str, Any]:
    """What a result notes of a set of images."""
    size = statistics.image_size
    return {
        "name": statistics.name,
        "count": statistics.count,
        "image_size": None if size is None else [int(side) for side in size],
        "purpose": statistics.purpose,
    }


def count_warnings(scored: SetStatistics, what: str) -> list[str]:
    """Why a FID does not compare with published ones: it is of another number of images."""
    if scored.count == FULL_COUNT:
        return []
    return [
        f"published scores are of {FULL_COUNT:,} {what}, these of {scored.count:,}; FID falls as "
        "the number rises"
    ]


def size_warnings(
    scored: SetStatistics, reference: SetStatistics, what: str, width: int
) -> list[str]:
    """Why two sets may not compare: counts, sizes, too few images, compression.

    Args:
        scored: What is scored.
        reference: What it is scored against.
        what: Name of the scored images, such as "samples".
        width: Of the features.
    """
    found = []
    if reference.count and scored.count != reference.count:
        found.append(
            f"{scored.count:,} {what} are compared with {reference.count:,} reference images; "
            "scores depend on both counts, so compare them with scores of the same counts only"
        )
    for statistics in (scored, reference):
        if 0 < statistics.count <= width:
            found.append(
                f"{statistics.name}: {statistics.count:,} images are fewer than the {width + 1:,} "
                f"that a covariance of {width:,} features needs; the Fréchet distance is biased"
            )
    sizes = scored.image_size, reference.image_size
    if None not in sizes and sizes[0] != sizes[1]:
        first, second = (f"{size[1]} x {size[0]}" for size in sizes if size is not None)
        found.append(
            f"the {what} have {first} pixels and the reference images {second}; resize the "
            "larger ones as the published evaluation does, or compare sizes that are equal"
        )
    return [*found, *scored.notes, *(n for n in reference.notes if n not in scored.notes)]


def as_numbers(scores: Mapping[str, float | np.floating]) -> dict[str, float]:
    """The scores as plain numbers, for JSON."""
    return {name: float(value) for name, value in scores.items()}
