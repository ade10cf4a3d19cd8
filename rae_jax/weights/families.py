"""Every class of autoencoder that diffusers writes, by the name in its `config.json`."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rae_jax.models.autoencoders import dc_config, kl_config, rae_config
from rae_jax.models.autoencoders.dc import AutoencoderDC
from rae_jax.models.autoencoders.kl import AutoencoderKL
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.weights import autoencoder_dc, autoencoder_kl, autoencoders, readers
from rae_jax.weights.autoencoders import Loading

AnyAutoencoder = AutoencoderRAE | AutoencoderKL | AutoencoderDC


@dataclasses.dataclass(frozen=True)
class Family:
    """One class of autoencoder.

    Attributes:
        module: Its modules.
        load: (folder of diffusers, how to load) -> module.
        save: (folder, module); writes what `load` reads.
        export: Module -> (options, entries), what `save` writes.
        load_single_file: (file of the original release, options or None, how to load) -> module;
            None where there is no such file.
    """

    module: type[AnyAutoencoder]
    load: Callable[[pathlib.Path, Loading], AnyAutoencoder]
    save: Callable[..., None]
    export: Callable[..., tuple[Any, dict[str, np.ndarray]]]
    load_single_file: Callable[[str | os.PathLike[str], Any, Loading], AnyAutoencoder] | None = None


FAMILIES: Mapping[str, Family] = {
    rae_config.CLASS_NAME: Family(
        AutoencoderRAE,
        autoencoders.load_diffusers,
        autoencoders.save_diffusers,
        autoencoders.to_diffusers,
    ),
    kl_config.CLASS_NAME: Family(
        AutoencoderKL,
        autoencoder_kl.load_diffusers,
        autoencoder_kl.save_diffusers,
        autoencoder_kl.to_diffusers,
        autoencoder_kl.load_single_file,
    ),
    dc_config.CLASS_NAME: Family(
        AutoencoderDC,
        autoencoder_dc.load_diffusers,
        autoencoder_dc.save_diffusers,
        autoencoder_dc.to_diffusers,
        autoencoder_dc.load_single_file,
    ),
}
"""By `_class_name`."""


def load_folder(folder: pathlib.Path, loading: Loading) -> AnyAutoencoder:
    """The autoencoder in a folder that diffusers wrote.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: It is of no class that is known, or files do not fit together.
    """
    path = folder / "config.json"
    name = str(readers.read_json(path).get("_class_name"))
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ValueError(f"{path}: _class_name must be one of {known}, got {name!r}")
    return FAMILIES[name].load(folder, loading)


def family_of(autoencoder: AnyAutoencoder) -> Family:
    """The family of a module."""
    return FAMILIES[type(autoencoder).__name__]
