"""Loads and saves encoders by name or folder."""

import dataclasses
import os
import pathlib

from flax import nnx

from rae_jax.layers.functional import abstract
from rae_jax.models.encoders.base import Encoder
from rae_jax.models.encoders.mae import MAEConfig, MAEEncoder
from rae_jax.typing import DTypeLike
from rae_jax.weights import convert, hub, readers, writers
from rae_jax.weights.tables.mae import mae_prefix, mae_table

MODEL_TYPES = ("vit_mae",)
_FILES = ("config.json", "preprocessor_config.json", "model*.safetensors*")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an encoder wants its pixels.

    Attributes:
        mean: Image mean per channel, for images in [0, 1].
        std: Image deviation per channel.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_encoder(
    name: str, *, dtype: DTypeLike, unroll: int = 1, remat: str = "none"
) -> tuple[Encoder, Preprocessing]:
    """Builds an encoder and fills it with published weights.

    Args:
        name: Folder, hub repository or "builtin:NAME" (see `hub.resolve`) with `config.json`,
            `preprocessor_config.json` and `model.safetensors` (or its shards and their index).
        dtype: Compute dtype.
        unroll: Blocks per iteration of the scan.
        remat: What the backward pass recomputes, see `scan_layers`.

    Raises:
        FileNotFoundError: If the folder or a file is missing.
        ValueError: If the model type is not supported, or the files do not fit together.
    """
    folder = hub.resolve(name, _FILES)
    content = readers.read_json(folder / "config.json")
    model_type = content.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ValueError(
            f"{folder / 'config.json'} has model_type {model_type!r}; supported are "
            f"{', '.join(MODEL_TYPES)}"
        )
    config = MAEConfig.from_hugging_face(content)
    preprocessing = _read_preprocessing(folder / "preprocessor_config.json")
    tensors = readers.read_tensors(folder)
    encoder = abstract(
        lambda: MAEEncoder(config, dtype=dtype, unroll=unroll, remat=remat, rngs=nnx.Rngs(0))
    )
    table = mae_table(config.patch_size, mae_prefix(tensors))
    try:
        return convert.load(table, tensors, encoder), preprocessing
    except convert.WeightError as error:
        raise convert.WeightError(f"{folder}: {error}") from None


def save_encoder(
    folder: str | os.PathLike[str], encoder: MAEEncoder, preprocessing: Preprocessing
) -> None:
    """Writes the folder that `load_encoder` reads; the weights, the largest file, come last."""
    folder = pathlib.Path(folder)
    means = {"image_mean": list(preprocessing.mean), "image_std": list(preprocessing.std)}
    writers.write_json(folder / "config.json", encoder.config.to_hugging_face())
    writers.write_json(folder / "preprocessor_config.json", means)
    tensors = convert.export(mae_table(encoder.patch_size), encoder)
    writers.write_tensors(folder / "model.safetensors", tensors)


def _read_preprocessing(path: pathlib.Path) -> Preprocessing:
    content = readers.read_json(path)

    def three(name: str) -> tuple[float, float, float]:
        value = content.get(name)
        if not isinstance(value, list) or len(value) != 3:
            raise ValueError(f"{path} must hold {name} as three numbers, got {value!r}")
        red, green, blue = map(float, value)
        return red, green, blue

    return Preprocessing(three("image_mean"), three("image_std"))
