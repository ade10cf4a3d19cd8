"""What a single file of an original release does not say: its layout, and the options."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from absl import logging

from rae_jax.models.autoencoders.dc_config import DCConfig
from rae_jax.models.autoencoders.kl_config import KLConfig
from rae_jax.weights import hub, readers
from rae_jax.weights.errors import WeightFileError

C = TypeVar("C", KLConfig, DCConfig)
L = TypeVar("L", bound=str)


def find_layout(tensors: Mapping[str, np.ndarray], marks: Mapping[L, str], class_name: str) -> L:
    """The layout of a file.

    Args:
        tensors: Its entries.
        marks: By layout an entry that tells it; the first that is found does.
        class_name: Of the autoencoder that is looked for.

    Raises:
        WeightFileError: It has none of those entries.
    """
    for layout, key in marks.items():
        if key in tensors:
            return layout
    listed = ", ".join(list(tensors)[:4])
    wanted = " nor ".join(marks.values())
    raise WeightFileError(f"this is no {class_name}: it has neither {wanted}, but {listed}, ...")


def find_config(
    source: C | Mapping[str, Any] | str | os.PathLike[str],
    kind: type[C],
    released: Mapping[str, C],
) -> C:
    """Options of an autoencoder.

    Args:
        source: The options or the contents of a `config.json`; or the name of a release, the path
            of a `config.json`, or a folder or hub repository with one.
        kind: Class of the options.
        released: Those of the releases, by name.

    Raises:
        FileNotFoundError: There is no such thing.
        ValueError: It holds options of something else.
    """
    if isinstance(source, kind):
        return source
    if isinstance(source, Mapping):
        return kind.read(source)
    name = os.fspath(source)
    if name in released:
        return released[name]
    path = pathlib.Path(name).expanduser()
    if not path.is_file():
        try:
            path = hub.resolve(name, ("config.json",)) / "config.json"
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; the releases are {', '.join(released)}") from None
    return readers.read_config(path, lambda content: kind.read(content))


def assumed_config(fitting: Mapping[str, C], channels: int, differing: Sequence[str]) -> C:
    """Options of the first release that a file may be of, with a warning if there are others.

    Args:
        fitting: Options of the releases with such entries, by name.
        channels: Of the file's latents.
        differing: The options that no entry tells.

    Raises:
        WeightFileError: There is no such release.
    """
    if not fitting:
        raise WeightFileError(
            f"no release has latents of {channels} channels and such entries; give config="
        )
    chosen, *others = fitting
    if others:
        told = {
            name: ", ".join(str(getattr(config, option)) for option in differing)
            for name, config in fitting.items()
        }
        logging.warning(
            "%s assumed: the file may be of any of %s, which differ in %s alone; give config= to "
            "say which it is",
            chosen,
            ", ".join(f"{name!r} ({values})" for name, values in told.items()),
            " and ".join(differing),
        )
    return fitting[chosen]
