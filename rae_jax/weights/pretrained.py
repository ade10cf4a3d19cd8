"""Loads and saves encoders by name or folder."""

import dataclasses
import difflib
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from rae_jax.files import local_path
from rae_jax.layers.functional import abstract
from rae_jax.models.encoders.dinov2 import DINOv2Config, DINOv2Encoder
from rae_jax.models.encoders.mae import MAEConfig, MAEEncoder
from rae_jax.models.encoders.siglip2 import SigLIP2Config, SigLIP2Encoder
from rae_jax.models.encoders.vision_transformer import VisionTransformer, VisionTransformerConfig
from rae_jax.typing import DTypeLike
from rae_jax.weights import convert, hub, readers, writers
from rae_jax.weights.table import WeightTable
from rae_jax.weights.tables.dinov2 import dinov2_table
from rae_jax.weights.tables.mae import mae_prefix, mae_table
from rae_jax.weights.tables.siglip2 import TOWER, siglip2_prefix, siglip2_table
from rae_jax.weights.tables.vit_layers import Style, find_style

MODEL_TYPES: Mapping[str, type[VisionTransformerConfig]] = {
    "dinov2": DINOv2Config,
    "dinov2_with_registers": DINOv2Config,
    "siglip": SigLIP2Config,
    "siglip_vision_model": SigLIP2Config,
    "vit_mae": MAEConfig,
}
"""Configuration class of each `model_type` of transformers."""

ENCODER_FILES = ("config.json", "preprocessor_config.json", "model*.safetensors*")
"""Patterns of the files that make up an encoder."""


@dataclasses.dataclass(frozen=True)
class _Family:
    """What the encoders of one configuration class have in common.

    Attributes:
        module: Their class.
        table: Their rows, for the prefix and the style of a file.
        prefix: Finds the prefix in the entries of a file.
        own_prefix: The one that is written.
        unused: Entries with their shapes that transformers has beyond the encoder's.
    """

    module: Callable[..., VisionTransformer]
    table: Callable[[Any, str, Style], WeightTable]
    prefix: Callable[[Iterable[str]], str]
    own_prefix: str
    unused: Callable[[int], Mapping[str, tuple[int, ...]]]


_FAMILIES: Mapping[type, _Family] = {
    DINOv2Config: _Family(
        DINOv2Encoder,
        dinov2_table,
        lambda keys: "",
        "",
        lambda width: {
            "layernorm.weight": (width,),
            "layernorm.bias": (width,),
            "embeddings.mask_token": (1, width),
        },
    ),
    SigLIP2Config: _Family(
        SigLIP2Encoder,
        lambda config, prefix, style: siglip2_table(config.patch_size, prefix),
        siglip2_prefix,
        TOWER,
        lambda width: {
            f"{TOWER}post_layernorm.weight": (width,),
            f"{TOWER}post_layernorm.bias": (width,),
        },
    ),
    MAEConfig: _Family(
        MAEEncoder,
        lambda config, prefix, style: mae_table(config.patch_size, prefix, style),
        mae_prefix,
        "",
        lambda width: {"layernorm.weight": (width,), "layernorm.bias": (width,)},
    ),
}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an encoder wants its pixels.

    Attributes:
        mean: Image mean per channel, for images in [0, 1].
        std: Image deviation per channel.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def encoder_config(content: Mapping[str, Any]) -> VisionTransformerConfig:
    """Sizes of the encoder that the contents of a `config.json` of transformers describe.

    Raises:
        ValueError: If the model type or one of its settings is not supported.
    """
    model_type = str(content.get("model_type"))
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type {model_type!r} is not supported; {_advice(model_type)}")
    return MODEL_TYPES[model_type].from_hugging_face(content)


def _advice(model_type: str) -> str:
    if model_type in ("siglip2", "siglip2_vision_model"):
        return (
            "it is the NaFlex model; use SigLIP2 of a fixed resolution, such as "
            "google/siglip2-base-patch16-256"
        )
    near = difflib.get_close_matches(model_type, MODEL_TYPES, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}there are {', '.join(MODEL_TYPES)}"


def encoder_from_config(
    content: Mapping[str, Any] | VisionTransformerConfig,
    *,
    dtype: DTypeLike,
    unroll: int = 1,
    remat: str = "none",
) -> VisionTransformer:
    """The encoder that a configuration describes, with shapes in place of arrays.

    Args:
        content: Sizes, or the contents of a `config.json` of transformers.
        dtype: Compute dtype.
        unroll: Blocks per iteration of the scan.
        remat: What the backward pass recomputes, see `scan_layers`.

    Raises:
        ValueError: If the model type or one of its settings is not supported.
    """
    config = encoder_config(content) if isinstance(content, Mapping) else content
    module = _FAMILIES[type(config)].module
    return abstract(
        lambda: module(config, dtype=dtype, unroll=unroll, remat=remat, rngs=nnx.Rngs(0))
    )


def encoder_table(
    config: VisionTransformerConfig,
    keys: Iterable[str] | None = None,
    *,
    prefix: str = "",
    style: Style = "transformers4",
) -> WeightTable:
    """Rows that join an encoder and a file.

    Args:
        config: The encoder's sizes.
        keys: Entries of the file to read, whose names show how they are called. None gives the
            names to write.
        prefix: What stands before every entry in a larger file, such as "encoder.". Entries
            without it are the caller's.
        style: Whose names to write; not used with `keys`.
    """
    family = _FAMILIES[type(config)]
    if keys is None:
        own = "" if style == "transformers5" else family.own_prefix
        return family.table(config, prefix + own, style)
    own = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    return family.table(config, prefix + family.prefix(own), find_style(own))


def load_encoder(
    name: str,
    *,
    dtype: DTypeLike,
    unroll: int = 1,
    remat: str = "none",
    revision: str | None = None,
    place: convert.Place | None = None,
) -> tuple[VisionTransformer, Preprocessing]:
    """Builds an encoder and fills it with published weights.

    Args:
        name: Folder, hub repository or "builtin:NAME" (see `hub.resolve`) with `config.json`,
            `preprocessor_config.json` and `model.safetensors` (or its shards and their index).
        dtype: Compute dtype.
        unroll: Blocks per iteration of the scan.
        remat: What the backward pass recomputes, see `scan_layers`.
        revision: Branch, tag or commit of a hub repository.
        place: Where each array goes, see `convert.load`.

    Raises:
        FileNotFoundError: If the folder or a file is missing.
        ValueError: If the model type is not supported, or the files do not fit together.
    """
    folder = hub.resolve(name, ENCODER_FILES, revision=revision)
    content = readers.read_json(folder / "config.json")
    try:
        config = encoder_config(content)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    preprocessing = _read_preprocessing(folder / "preprocessor_config.json")
    tensors = readers.read_tensors(folder)
    encoder = encoder_from_config(config, dtype=dtype, unroll=unroll, remat=remat)
    try:
        convert.load(encoder_table(config, tensors), tensors, encoder, place=place)
    except convert.WeightError as error:
        raise convert.WeightError(f"{folder}: {error}") from None
    return encoder, preprocessing


def save_encoder(
    folder: str | os.PathLike[str],
    encoder: VisionTransformer,
    preprocessing: Preprocessing,
) -> None:
    """Writes the folder that `load_encoder` reads; the weights, the largest file, come last.

    The transformers library reads it too and gives the same features: its final LayerNorm is
    written with gain one and bias zero.
    """
    folder, config = local_path(folder, "a folder to write"), encoder.config
    means = {"image_mean": list(preprocessing.mean), "image_std": list(preprocessing.std)}
    writers.write_json(folder / "config.json", config.to_hugging_face())
    writers.write_json(folder / "preprocessor_config.json", means)
    tensors = convert.export(encoder_table(config), encoder)
    for key, shape in _FAMILIES[type(config)].unused(config.hidden_size).items():
        tensors[key] = np.full(shape, float(key.endswith("weight")), np.float32)
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
