"""AutoencoderDC in the files of diffusers and of the original DC-AE release."""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import logging
from flax import nnx

from rae_jax.files import local_path
from rae_jax.layers.functional import abstract
from rae_jax.models.autoencoders.dc import AutoencoderDC
from rae_jax.models.autoencoders.dc_config import RELEASED, DCConfig
from rae_jax.models.autoencoders.options import ConvolutionalOptions
from rae_jax.weights import convert, hub, readers, writers
from rae_jax.weights.autoencoders import DIFFUSERS_STEM, Loading
from rae_jax.weights.errors import WeightFileError
from rae_jax.weights.tables.autoencoder_dc import BATCHES_SEEN, Layout, autoencoder_dc_table

ConfigSource = DCConfig | Mapping[str, Any] | str | os.PathLike[str]
"""Options, the contents of a `config.json`, or a name that `find_config` knows."""

_VARIANCE = "running_var"
_LATENT_ENTRIES: Mapping[Layout, str] = {
    "original": "encoder.project_out.main.op_list.0.conv.bias",
    "diffusers": "encoder.conv_out.bias",
}
_SANA_ENTRIES = ("encoder.project_in.conv.bias", "encoder.conv_in.bias")


def load_diffusers(folder: pathlib.Path, loading: Loading) -> AutoencoderDC:
    """The autoencoder in a folder that diffusers wrote.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: It is of another class, or files do not fit together; the message lists every
            mismatch.
    """
    config = _read_config(folder / "config.json")
    tensors = readers.read_tensors(folder, DIFFUSERS_STEM)
    try:
        return from_tensors(config, tensors, loading)
    except ValueError as error:
        raise type(error)(f"{folder}: {error}") from None


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
    loading = loading or Loading()
    options = ConvolutionalOptions(slice_size=loading.slice_size, tiling=loading.tiling)
    return abstract(
        lambda: AutoencoderDC(
            config, options=options, rngs=nnx.Rngs(0), **loading.compute.arguments
        )
    )


def find_config(source: ConfigSource) -> DCConfig:
    """Options of an autoencoder.

    Args:
        source: The options or the contents of a `config.json`; or the name of a release
            ("dc-ae-f32c32-in-1.0"), the path of a `config.json`, or a folder or hub repository
            with one.

    Raises:
        FileNotFoundError: There is no such thing.
        ValueError: It holds options of something else.
    """
    if isinstance(source, DCConfig):
        return source
    if isinstance(source, Mapping):
        return DCConfig.read(source)
    name = os.fspath(source)
    if name in RELEASED:
        return RELEASED[name]
    path = pathlib.Path(name).expanduser()
    if not path.is_file():
        try:
            path = hub.resolve(name, ("config.json",)) / "config.json"
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; the releases are {', '.join(RELEASED)}") from None
    return _read_config(path)


def save_diffusers(folder: str | os.PathLike[str], autoencoder: AutoencoderDC) -> None:
    """Writes a folder that diffusers and `load_diffusers` read; the weights come last.

    Args:
        folder: Made if need be.
        autoencoder: Any.
    """
    folder = local_path(folder, "a folder to write")
    config, tensors = to_diffusers(autoencoder)
    writers.write_json(folder / "config.json", config.write())
    writers.write_tensors(folder / f"{DIFFUSERS_STEM}.safetensors", tensors)


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


def _read_config(path: pathlib.Path) -> DCConfig:
    try:
        return DCConfig.read(readers.read_json(path))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _layout(tensors: Mapping[str, np.ndarray]) -> Layout:
    for layout, key in _LATENT_ENTRIES.items():
        if key in tensors:
            return layout
    listed = ", ".join(list(tensors)[:4])
    wanted = " nor ".join(_LATENT_ENTRIES.values())
    raise WeightFileError(f"this is no AutoencoderDC: it has neither {wanted}, but {listed}, ...")


def _assumed(tensors: Mapping[str, np.ndarray], layout: Layout) -> DCConfig:
    """Options of the release that has such entries."""
    (channels,) = readers.header(tensors, _LATENT_ENTRIES[layout]).shape
    sana = any(key in tensors for key in _SANA_ENTRIES)
    fitting = [
        name
        for name, config in RELEASED.items()
        if config.latent_channels == channels and ("-sana-" in name) == sana
    ]
    if not fitting:
        raise WeightFileError(
            f"no release has latents of {channels} channels and such entries; give config="
        )
    *others, chosen = fitting
    if others:
        factors = ", ".join(f"{name!r} ({RELEASED[name].scaling_factor})" for name in fitting)
        logging.warning(
            "%s assumed: the file may be of any of %s, which differ in the scaling factor of "
            "latents alone; give config= to say which it is",
            chosen,
            factors,
        )
    return RELEASED[chosen]
