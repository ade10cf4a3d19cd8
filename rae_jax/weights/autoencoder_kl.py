"""AutoencoderKL in the files of diffusers and of CompVis' latent diffusion."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from rae_jax.layers.functional import abstract
from rae_jax.models.autoencoders.kl import AutoencoderKL
from rae_jax.models.autoencoders.kl_config import CLASS_NAME, RELEASED, KLConfig
from rae_jax.weights import convert, readers, single_files
from rae_jax.weights.autoencoders import Loading
from rae_jax.weights.tables.autoencoder_kl import Layout, autoencoder_kl_table
from rae_jax.weights.torch_files import read_torch

ConfigSource = KLConfig | Mapping[str, Any] | str | os.PathLike[str]
"""Options, the contents of a `config.json`, or a name that `find_config` knows."""

_PREFIXES = ("first_stage_model.", "vae.")
_MARKS: Mapping[Layout, str] = {
    "diffusers_deprecated": "encoder.mid_block.attentions.0.query.weight",
    "diffusers": "encoder.mid_block.resnets.0.conv1.weight",
    "original": "encoder.mid.block_1.conv1.weight",
}
"""An entry that tells the layout; the first that is found does."""

_LATENT_ENTRY, _QUANT_ENTRY = "decoder.conv_in.weight", "quant_conv.weight"
_TRAINING_STATE = "state_dict"


def load_single_file(
    path: str | os.PathLike[str], config: ConfigSource | None, loading: Loading
) -> AutoencoderKL:
    """The autoencoder in one file in any layout, alone or in a checkpoint of latent diffusion.

    Args:
        path: The file.
        config: Options, or where they are, see `find_config`. None takes the first release with
            such entries, with a warning.
        loading: How to load.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No release has such entries, or the options do not fit them.
    """
    tensors = _own_entries(_read_file(pathlib.Path(path)))
    try:
        layout = _layout(tensors)
        found = _assumed(tensors) if config is None else find_config(config)
        return from_tensors(found, tensors, loading, layout=layout)
    except ValueError as error:
        raise type(error)(f"{path}: {error}") from None


def from_diffusers(
    config: KLConfig, tensors: Mapping[str, np.ndarray], loading: Loading
) -> AutoencoderKL:
    """The autoencoder of diffusers with these options and entries, with former names too."""
    return from_tensors(config, tensors, loading, layout=_layout(tensors))


def from_tensors(
    config: KLConfig,
    tensors: Mapping[str, np.ndarray],
    loading: Loading,
    *,
    layout: Layout = "diffusers",
) -> AutoencoderKL:
    """The autoencoder with these options and entries."""
    table = autoencoder_kl_table(config, layout)
    return convert.load(table, tensors, empty(config, loading), place=loading.place)


def empty(config: KLConfig, loading: Loading | None = None) -> AutoencoderKL:
    """The module with shapes in place of arrays."""
    arguments = (loading or Loading()).convolutional_arguments
    return abstract(lambda: AutoencoderKL(config, rngs=nnx.Rngs(0), **arguments))


def find_config(source: ConfigSource) -> KLConfig:
    """Options of an autoencoder, see `single_files.find_config`."""
    return single_files.find_config(source, KLConfig, RELEASED)


def to_diffusers(autoencoder: AutoencoderKL) -> tuple[KLConfig, dict[str, np.ndarray]]:
    """Options and entries of an autoencoder."""
    return autoencoder.config, to_tensors(autoencoder)


def to_tensors(autoencoder: AutoencoderKL, layout: Layout = "diffusers") -> dict[str, np.ndarray]:
    """Entries of the file of an autoencoder."""
    return convert.export(autoencoder_kl_table(autoencoder.config, layout), autoencoder)


def entry_shapes(config: KLConfig, layout: Layout = "diffusers") -> dict[str, tuple[int, ...]]:
    """Every entry of the file of an autoencoder with these options."""
    return convert.entry_shapes(autoencoder_kl_table(config, layout), empty(config))


def _read_file(path: pathlib.Path) -> Mapping[str, np.ndarray]:
    if path.suffix not in readers.TORCH_SUFFIXES:
        return readers.read_tensors(path)
    content = read_torch(path)
    return content.get(_TRAINING_STATE, content)


def _own_entries(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The entries of the autoencoder in a checkpoint of more, without their prefix."""
    for prefix in _PREFIXES:
        keys = [key for key in tensors if key.startswith(prefix)]
        if keys:
            return {key.removeprefix(prefix): tensors[key] for key in keys}
    return tensors


def _layout(tensors: Mapping[str, np.ndarray]) -> Layout:
    return single_files.find_layout(tensors, _MARKS, CLASS_NAME)


def _assumed(tensors: Mapping[str, np.ndarray]) -> KLConfig:
    """Options of the first release that has such entries."""
    channels = readers.header(tensors, _LATENT_ENTRY).shape[1]
    fitting = {
        name: config
        for name, config in RELEASED.items()
        if config.latent_channels == channels and config.use_quant_conv == (_QUANT_ENTRY in tensors)
    }
    return single_files.assumed_config(fitting, channels, ("scaling_factor", "shift_factor"))
