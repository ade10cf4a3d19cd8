"""Every class of autoencoder that diffusers writes, by the name in its `config.json`."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rae_jax.files import local_path
from rae_jax.models.autoencoders import dc_config, kl_config, rae_config
from rae_jax.models.autoencoders.dc import AutoencoderDC
from rae_jax.models.autoencoders.dc_config import DCConfig
from rae_jax.models.autoencoders.kl import AutoencoderKL
from rae_jax.models.autoencoders.kl_config import KLConfig
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.autoencoders.rae_config import RAEConfig
from rae_jax.weights import autoencoder_dc, autoencoder_kl, autoencoders, readers, writers
from rae_jax.weights.autoencoders import DIFFUSERS_STEM, Loading

AnyAutoencoder = AutoencoderRAE | AutoencoderKL | AutoencoderDC
AnyConfig = RAEConfig | KLConfig | DCConfig


@dataclasses.dataclass(frozen=True)
class Family:
    """One class of autoencoder.

    Attributes:
        module: Its modules.
        config: Its options.
        build: (options, entries of a file of diffusers, how to load) -> module.
        export: Module -> (options, entries), what `build` takes.
        load_single_file: (file of the original release, options or None, how to load) -> module;
            None where there is no such file.
    """

    module: type[AnyAutoencoder]
    config: type[AnyConfig]
    build: Callable[[Any, Mapping[str, np.ndarray], Loading], AnyAutoencoder]
    export: Callable[..., tuple[AnyConfig, dict[str, np.ndarray]]]
    load_single_file: Callable[[str | os.PathLike[str], Any, Loading], AnyAutoencoder] | None = None


FAMILIES: Mapping[str, Family] = {
    rae_config.CLASS_NAME: Family(
        AutoencoderRAE,
        RAEConfig,
        autoencoders.from_diffusers,
        autoencoders.to_diffusers,
    ),
    kl_config.CLASS_NAME: Family(
        AutoencoderKL,
        KLConfig,
        autoencoder_kl.from_diffusers,
        autoencoder_kl.to_diffusers,
        autoencoder_kl.load_single_file,
    ),
    dc_config.CLASS_NAME: Family(
        AutoencoderDC,
        DCConfig,
        autoencoder_dc.from_tensors,
        autoencoder_dc.to_diffusers,
        autoencoder_dc.load_single_file,
    ),
}
"""By `_class_name`."""


def read_family(path: pathlib.Path) -> tuple[Family, AnyConfig]:
    """The family that a `config.json` of diffusers is of, and the options in it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of no class that is known, or its options do not fit together.
    """

    def read(content: Mapping[str, Any]) -> tuple[Family, AnyConfig]:
        name = str(content.get("_class_name"))
        if name not in FAMILIES:
            raise ValueError(f"_class_name must be one of {', '.join(FAMILIES)}, got {name!r}")
        return FAMILIES[name], FAMILIES[name].config.read(content)

    return readers.read_config(path, read)


def load_folder(folder: pathlib.Path, loading: Loading) -> AnyAutoencoder:
    """The autoencoder in a folder that diffusers wrote.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: It is of no class that is known, or files do not fit together; the message
            lists every mismatch.
    """
    family, config = read_family(folder / "config.json")
    tensors = readers.read_tensors(folder, DIFFUSERS_STEM)
    try:
        return family.build(config, tensors, loading)
    except ValueError as error:
        raise type(error)(f"{folder}: {error}") from None


def save_folder(
    folder: str | os.PathLike[str], autoencoder: AnyAutoencoder, **options: Any
) -> None:
    """Writes a folder that diffusers and `load_folder` read; the weights come last.

    Args:
        folder: Made if need be.
        autoencoder: Of any family.
        **options: Of the family's `export`.

    Raises:
        ValueError: diffusers cannot express the autoencoder.
    """
    folder = local_path(folder, "a folder to write")
    config, tensors = family_of(autoencoder).export(autoencoder, **options)
    writers.write_json(folder / "config.json", config.write())
    writers.write_tensors(folder / f"{DIFFUSERS_STEM}.safetensors", tensors)


def family_of(autoencoder: AnyAutoencoder) -> Family:
    """The family of a module."""
    return FAMILIES[type(autoencoder).__name__]
