"""AutoencoderDC in the files of diffusers and of the original DC-AE release."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from rae_jax.layers.functional import abstract
from rae_jax.models.autoencoders.dc import AutoencoderDC
from rae_jax.models.autoencoders.dc_config import CLASS_NAME, RELEASED, DCConfig
from rae_jax.weights import convert, readers, single_files
from rae_jax.weights.autoencoders import Loading
from rae_jax.weights.tables.autoencoder_dc import BATCHES_SEEN, Layout, autoencoder_dc_table

ConfigSource = DCConfig | Mapping[str, Any] | str | os.PathLike[str]
"""Options, the contents of a `config.json`, or a name that `find_config` knows."""

_VARIANCE = "running_var"
_LATENT_ENTRIES: Mapping[Layout, str] = {
    "original": "encoder.project_out.main.op_list.0.conv.bias",
    "diffusers": "encoder.conv_out.bias",
}
_SANA_ENTRIES = ("encoder.project_in.conv.bias", "encoder.conv_in.bias")


def load_single_file(
    path: str | os.PathLike[str], config: ConfigSource | None, loading: Loading
) -> AutoencoderDC:
    """The autoencoder in one file of the original release, or in the weight file of diffusers.

    Args:
        path: The file, or a folder with a `model.safetensors`.
        config: Options, or where they are, see `find_config`. None takes those of the release
            with such entries. The "in" and the "mix" release share them; then "mix" is assumed, as
            in diffusers, with a warning, for the two differ in `scaling_factor`.
        loading: How to load.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No release has such entries, or the options do not fit them.
    """
    tensors = readers.read_tensors(path)
    try:
        layout = _layout(tensors)
        found = _assumed(tensors, layout) if config is None else find_config(config)
        return from_tensors(found, tensors, loading, layout=layout)
    except ValueError as error:
        raise type(error)(f"{path}: {error}") from None


def from_tensors(
    config: DCConfig,
    tensors: Mapping[str, np.ndarray],
    loading: Loading,
    *,
    layout: Layout = "diffusers",
) -> AutoencoderDC:
    """The autoencoder with these options and entries."""
    module = empty(config, loading)
    table = autoencoder_dc_table(config, layout)
    return convert.load(table, tensors, module, place=loading.place)


def empty(config: DCConfig, loading: Loading | None = None) -> AutoencoderDC:
    """The module with shapes in place of arrays."""
    arguments = (loading or Loading()).convolutional_arguments
    return abstract(lambda: AutoencoderDC(config, rngs=nnx.Rngs(0), **arguments))


def find_config(source: ConfigSource) -> DCConfig:
    """Options of an autoencoder, see `single_files.find_config`."""
    return single_files.find_config(source, DCConfig, RELEASED)


def to_diffusers(autoencoder: AutoencoderDC) -> tuple[DCConfig, dict[str, np.ndarray]]:
    """Options and entries of an autoencoder."""
    return autoencoder.config, to_tensors(autoencoder)


def to_tensors(autoencoder: AutoencoderDC, layout: Layout = "diffusers") -> dict[str, np.ndarray]:
    """Entries of the file of an autoencoder."""
    tensors = convert.export(autoencoder_dc_table(autoencoder.config, layout), autoencoder)
    return tensors | {key: np.zeros((), np.int64) for key in _batch_counts(tensors)}


def entry_shapes(config: DCConfig, layout: Layout = "diffusers") -> dict[str, tuple[int, ...]]:
    """Every entry of the file of an autoencoder with these options."""
    shapes = convert.entry_shapes(autoencoder_dc_table(config, layout), empty(config))
    return shapes | dict.fromkeys(_batch_counts(shapes), ())


def _batch_counts(keys: Iterable[str]) -> list[str]:
    """Entries that a batch norm of PyTorch has too, and whose value no image depends on."""
    return [key.removesuffix(_VARIANCE) + BATCHES_SEEN for key in keys if key.endswith(_VARIANCE)]


def _layout(tensors: Mapping[str, np.ndarray]) -> Layout:
    return single_files.find_layout(tensors, _LATENT_ENTRIES, CLASS_NAME)


def _assumed(tensors: Mapping[str, np.ndarray], layout: Layout) -> DCConfig:
    """Options of the release that has such entries."""
    (channels,) = readers.header(tensors, _LATENT_ENTRIES[layout]).shape
    sana = any(key in tensors for key in _SANA_ENTRIES)
    fitting = {
        name: config
        for name, config in RELEASED.items()
        if config.latent_channels == channels and ("-sana-" in name) == sana
    }
    # Of "in" and "mix" the last, as in diffusers.
    fitting = dict(reversed(fitting.items()))
    return single_files.assumed_config(fitting, channels, ("scaling_factor",))
