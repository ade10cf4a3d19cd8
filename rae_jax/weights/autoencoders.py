"""Autoencoders in the files of diffusers and of the RAE collections."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from jax.sharding import Mesh

from rae_jax.layers.functional import Buffer, abstract
from rae_jax.models.autoencoders.latent_normalization import (
    LatentNormalization,
    Normalization,
    ScaledNormalization,
)
from rae_jax.models.autoencoders.options import ConvolutionalOptions
from rae_jax.models.autoencoders.rae import AutoencoderRAE, RAEOptions
from rae_jax.models.autoencoders.rae_config import (
    CLASS_NAME,
    RAEConfig,
    encoder_type,
    statistics_to_file,
    statistics_to_grid,
)
from rae_jax.models.autoencoders.tiling import Tiling
from rae_jax.models.compute import Compute
from rae_jax.models.decoders.vit_decoder import DecoderConfig, ViTDecoder
from rae_jax.models.encoders.base import Encoder
from rae_jax.models.encoders.vision_transformer import VisionTransformer
from rae_jax.reconstruction.latent_noise import LatentNoise
from rae_jax.sharding.rules import leaf_sharding
from rae_jax.weights import convert, hub, readers
from rae_jax.weights.pretrained import encoder_from_config, load_encoder
from rae_jax.weights.tables.diffusers_rae import POSITIONS, diffusers_rae_table
from rae_jax.weights.tables.vit_decoder import VIT_DECODER
from rae_jax.weights.tables.vit_layers import Style

DIFFUSERS_STEM = "diffusion_pytorch_model"
DIFFUSERS_FILES = ("config.json", f"{DIFFUSERS_STEM}*.safetensors*", f"{DIFFUSERS_STEM}*.bin*")

_PUBLISHED_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
_SIGLIP_HEAD = "encoder.vision_model.head."
_HEAD_INNER_SIZE = 3072


@dataclasses.dataclass(frozen=True)
class Loading:
    """How an autoencoder is loaded.

    Attributes:
        compute: How it computes.
        slice_size: See `RAEOptions`.
        tiling: See `ConvolutionalOptions`; not of a RAE.
        mesh: Arrays go straight to their shards on it; None puts them on the default device.
    """

    compute: Compute = Compute()
    slice_size: int | None = None
    tiling: Tiling | None = None
    mesh: Mesh | None = None

    def refuse_tiling(self) -> None:
        """Raises ValueError if images are to be cut, for an autoencoder that cannot."""
        if self.tiling is not None:
            raise ValueError(
                f"{CLASS_NAME} takes images of one size, so it has no tiles; leave out tiling"
            )

    @property
    def convolutional_arguments(self) -> dict[str, Any]:
        """Keyword arguments of autoencoders of convolutions."""
        options = ConvolutionalOptions(slice_size=self.slice_size, tiling=self.tiling)
        return {"options": options, **self.compute.arguments}

    def place(self, path: str, leaf: Any) -> jax.sharding.Sharding | None:
        """Where the array of a leaf goes."""
        return None if self.mesh is None else leaf_sharding(path, leaf.shape, self.mesh)


class _Parts(nnx.Module):
    """What one file of diffusers holds, as it holds it."""

    def __init__(self, encoder: Encoder, decoder: ViTDecoder, **buffers: np.ndarray):
        self.encoder, self.decoder = encoder, decoder
        self.image_mean = Buffer(jnp.asarray(buffers["image_mean"], jnp.float32))
        self.image_std = Buffer(jnp.asarray(buffers["image_std"], jnp.float32))
        self.latents_mean = Buffer(jnp.asarray(buffers["latents_mean"], jnp.float32))
        self.latents_std = Buffer(jnp.asarray(buffers["latents_std"], jnp.float32))


def from_diffusers(
    config: RAEConfig, tensors: Mapping[str, np.ndarray], loading: Loading
) -> AutoencoderRAE:
    """The autoencoder of diffusers with these options and entries."""
    loading.refuse_tiling()
    tensors = _without_positions(tensors)
    parts = empty_parts(config, tensors, loading)
    table = diffusers_rae_table(config, tensors)
    convert.load(table, tensors, parts, place=loading.place)
    for name in ("latents_mean", "latents_std"):
        said, held = getattr(config, name), np.asarray(getattr(parts, name)[...])
        if said is not None and not np.array_equal(np.ravel(np.float32(said)), np.ravel(held)):
            logging.warning(
                "the weights hold another %s than config.json; as in diffusers, theirs counts",
                name,
            )
    means, deviations = (
        statistics_to_grid(np.asarray(values[...]), config.grid, reshape_to_2d=config.reshape_to_2d)
        for values in (parts.latents_mean, parts.latents_std)
    )
    normalization = ScaledNormalization(
        means, deviations, scaling_factor=float(config.scaling_factor)
    )
    return AutoencoderRAE(
        parts.encoder,
        parts.decoder,
        encoder_input_size=config.encoder_input_size,
        image_mean=_three(parts.image_mean),
        image_std=_three(parts.image_std),
        normalization=normalization,
        noise=LatentNoise(config.noise_tau) if config.noise_tau else None,
        options=RAEOptions(
            reshape_to_2d=config.reshape_to_2d,
            use_encoder_loss=config.use_encoder_loss,
            slice_size=loading.slice_size,
        ),
    )


def empty_parts(
    config: RAEConfig, tensors: Mapping[str, np.ndarray], loading: Loading | None = None
) -> _Parts:
    """What `diffusers_rae_table` fills: shapes of `encoder` and `decoder`, and four buffers."""
    loading = loading or Loading()
    encoder = encoder_from_config(config.encoder(), **loading.compute.arguments)
    return _Parts(encoder, _decoder(config.decoder(), loading), **_shapes(config, tensors))


def entry_shapes(config: RAEConfig, *, style: Style) -> dict[str, tuple[int, ...]]:
    """Every entry of the file of an autoencoder without latent statistics."""
    parts = empty_parts(config, {})
    table = diffusers_rae_table(config, style=style)
    shapes = convert.entry_shapes(table, parts)
    shapes.pop(POSITIONS)
    return shapes | {key: array.shape for key, array in _unused(config, style).items()}


def to_diffusers(
    autoencoder: AutoencoderRAE, *, style: Style | None = None
) -> tuple[RAEConfig, dict[str, np.ndarray]]:
    """Options and entries of diffusers' autoencoder that does the same.

    Latent statistics of the RAE release are folded into those of diffusers, so that both give the
    same latents.

    Args:
        autoencoder: With a decoder.
        style: Which transformers' names the encoder's entries have, for diffusers looks for those
            of the version that is installed beside it. Unless given, those of version 5, but for
            SigLIP2, which diffusers cannot build there.

    Raises:
        ValueError: diffusers cannot express the autoencoder.
    """
    decoder, encoder = autoencoder.decoder, autoencoder.encoder
    if decoder is None:
        raise ValueError("this autoencoder only encodes; diffusers needs a decoder too")
    if not isinstance(encoder, VisionTransformer):
        raise ValueError(f"diffusers has no encoder like {type(encoder).__name__}")
    mean, std, scaling_factor = _scaled(autoencoder.normalization)
    two_dimensional = autoencoder.options.reshape_to_2d
    mean, std = (statistics_to_file(v, reshape_to_2d=two_dimensional) for v in (mean, std))
    noise = autoencoder.noise
    if noise is not None and not isinstance(noise, LatentNoise):
        raise ValueError(f"diffusers has no noise like {noise!r}; only that of noise_tau")
    sizes = decoder.config
    config = RAEConfig(
        encoder_type=encoder_type(encoder.config),
        encoder_hidden_size=encoder.hidden_size,
        encoder_patch_size=encoder.patch_size,
        encoder_num_hidden_layers=encoder.depth,
        decoder_hidden_size=sizes.hidden_size,
        decoder_num_hidden_layers=sizes.depth,
        decoder_num_attention_heads=sizes.num_heads,
        decoder_intermediate_size=sizes.intermediate_size,
        patch_size=sizes.patch_size,
        encoder_input_size=autoencoder.encoder_input_size,
        encoder_norm_mean=list(autoencoder.image_mean),
        encoder_norm_std=list(autoencoder.image_std),
        latents_mean=mean.tolist(),
        latents_std=std.tolist(),
        noise_tau=0.0 if noise is None else noise.noise_tau,
        reshape_to_2d=two_dimensional,
        use_encoder_loss=autoencoder.options.use_encoder_loss,
        scaling_factor=scaling_factor,
    )
    _require_expressible(config, sizes, decoder)
    if style is None:
        style = "transformers4" if config.encoder_type == "siglip2" else "transformers5"
    parts = _Parts(
        encoder,
        decoder,
        image_mean=np.reshape(autoencoder.image_mean, (1, 3, 1, 1)),
        image_std=np.reshape(autoencoder.image_std, (1, 3, 1, 1)),
        latents_mean=mean,
        latents_std=std,
    )
    tensors = convert.export(diffusers_rae_table(config, style=style), parts)
    return config, dict(_without_positions(tensors)) | _unused(config, style)


def load_published(
    encoder: str,
    decoder: str | os.PathLike[str],
    statistics: str | os.PathLike[str] | None,
    loading: Loading,
    *,
    encoder_input_size: int | None = None,
    num_heads: int | None = None,
    revision: str | None = None,
) -> AutoencoderRAE:
    """An encoder of transformers with the files of the RAE collections.

    Args:
        encoder: Folder or hub repository of the encoder.
        decoder: `model.pt` of the decoder.
        statistics: `stat.pt` of the latents; None leaves latents as the encoder gives them.
        loading: How to load.
        encoder_input_size: Side that images are resized to; unless given, the decoder's grid tells.
        num_heads: Of the decoder; unless given, that of the published decoder of its width.
        revision: Of the encoder, on the hub.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Files do not fit together.
    """
    tensors = readers.read_tensors(decoder)
    try:
        sizes = decoder_sizes(tensors, num_heads)
        module = _decoder(sizes, loading)
        convert.load(VIT_DECODER, tensors, module, place=loading.place)
    except ValueError as error:
        raise type(error)(f"{decoder}: {error}") from None
    normalization = None if statistics is None else load_statistics(statistics)
    loaded, preprocessing = load_encoder(
        encoder,
        revision=revision,
        place=loading.place,
        **loading.compute.arguments,
    )
    return AutoencoderRAE(
        loaded,
        module,
        encoder_input_size=encoder_input_size or sizes.grid[0] * loaded.patch_size,
        image_mean=preprocessing.mean,
        image_std=preprocessing.std,
        normalization=normalization,
        options=RAEOptions(slice_size=loading.slice_size),
    )


def decoder_sizes(tensors: Mapping[str, np.ndarray], num_heads: int | None = None) -> DecoderConfig:
    """Sizes of the decoder in a file of the RAE collections.

    Args:
        tensors: Its entries.
        num_heads: Which no entry tells; unless given, that of the published decoder of this width.

    Raises:
        ValueError: It is no such file, or its width is not published.
    """
    needed = ("decoder_embed.weight", "decoder_pred.weight", "decoder_pos_embed")
    first = "decoder_layers.{}.intermediate.dense.weight"
    missing = [key for key in (*needed, first.format(0)) if key not in tensors]
    if missing:
        raise ValueError(f"this is no RAE decoder: it lacks {', '.join(missing)}")
    shapes = {key: readers.header(tensors, key).shape for key in (*needed, first.format(0))}
    width, channels = shapes["decoder_embed.weight"]
    if num_heads is None and width not in _PUBLISHED_HEADS:
        raise ValueError(
            f"no decoder of width {width} is published, so its heads are not known; give num_heads"
        )
    side = math.isqrt(shapes["decoder_pos_embed"][1] - 1)
    return DecoderConfig(
        hidden_size=width,
        depth=sum(key.endswith(".intermediate.dense.weight") for key in tensors),
        num_heads=num_heads or _PUBLISHED_HEADS[width],
        intermediate_size=shapes[first.format(0)][0],
        latent_channels=channels,
        grid=(side, side),
        patch_size=math.isqrt(shapes["decoder_pred.weight"][0] // 3),
    )


def load_statistics(path: str | os.PathLike[str]) -> LatentNormalization:
    """Latent statistics of the RAE collections: `mean` and `var`, both [C, h, w].

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else.
    """
    tensors = readers.read_tensors(path)
    if set(tensors) != {"mean", "var"}:
        raise ValueError(f"{path} must hold mean and var, it holds {', '.join(tensors)}")
    arrays = [np.asarray(tensors[name], np.float32) for name in ("mean", "var")]
    if any(array.ndim != 3 or not np.isfinite(array).all() for array in arrays):
        raise ValueError(f"{path}: mean and var must be finite and have the shape [C, h, w]")
    return LatentNormalization(*(np.moveaxis(array, 0, -1) for array in arrays))


def find_diffusers(name: str, revision: str | None = None, subfolder: str = "") -> pathlib.Path:
    """Folder of an autoencoder that diffusers wrote; see `hub.resolve`.

    Args:
        name: See there.
        revision: See there.
        subfolder: Where it lies in the folder or repository of a pipeline.
    """
    files = [f"{subfolder}/{name}" if subfolder else name for name in DIFFUSERS_FILES]
    return hub.resolve(name, files, revision=revision) / subfolder


def _decoder(config: DecoderConfig, loading: Loading) -> ViTDecoder:
    module = abstract(lambda: ViTDecoder(config, rngs=nnx.Rngs(0), **loading.compute.arguments))
    # No parameter: files may leave it out.
    module.position_table.set_value(jnp.asarray(config.positions()))
    return module


def _shapes(config: RAEConfig, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Blank buffers of the shapes in the file, for statistics have several."""
    found = {"latents_mean": "_latents_mean", "latents_std": "_latents_std"}
    shapes = {
        ours: readers.header(tensors, key).shape if key in tensors else (1,)
        for ours, key in found.items()
    }
    for shape in shapes.values():
        blank = np.broadcast_to(np.float32(0), shape)
        statistics_to_grid(blank, config.grid, reshape_to_2d=config.reshape_to_2d)
    image = {"image_mean": (1, 3, 1, 1), "image_std": (1, 3, 1, 1)}
    return {name: np.zeros(shape, np.float32) for name, shape in (shapes | image).items()}


def _three(values: Buffer) -> tuple[float, float, float]:
    red, green, blue = np.asarray(values[...]).reshape(-1).tolist()
    return red, green, blue


def _scaled(normalization: Normalization | None) -> tuple[np.ndarray, np.ndarray, float]:
    if normalization is None:
        # Such that std + 1e-5 is one: diffusers always adds it.
        one = np.float32(1) - np.float32(ScaledNormalization.epsilon)
        return np.zeros((1, 1, 1), np.float32), np.full((1, 1, 1), one), 1.0
    if isinstance(normalization, ScaledNormalization):
        mean, std = (np.asarray(v[...]) for v in (normalization.mean, normalization.std))
        return mean, std, normalization.scaling_factor
    if isinstance(normalization, LatentNormalization):
        variance = np.asarray(normalization.variance[...], np.float64)
        std = np.sqrt(variance + normalization.epsilon) - ScaledNormalization.epsilon
        return np.asarray(normalization.mean[...]), std.astype(np.float32), 1.0
    raise ValueError(f"diffusers has no rule like {type(normalization).__name__}")


def _require_expressible(config: RAEConfig, sizes: DecoderConfig, decoder: ViTDecoder) -> None:
    wanted = config.decoder()
    if sizes.grid != wanted.grid or sizes.layer_norm_eps != wanted.layer_norm_eps:
        raise ValueError(
            f"diffusers builds a decoder with the grid {wanted.grid} and the epsilon "
            f"{wanted.layer_norm_eps}, this one has {sizes.grid} and {sizes.layer_norm_eps}"
        )
    error = float(np.abs(np.asarray(decoder.position_table[...]) - wanted.positions()).max())
    if error > 1e-6:
        raise ValueError(
            f"diffusers makes the decoder's positions itself, and they differ by up to {error:.3g} "
            "from this decoder's, so its images would be others; export encoder and decoder as "
            "separate files"
        )


def _unused(config: RAEConfig, style: Style) -> dict[str, np.ndarray]:
    """Entries that diffusers wants to find and that no image depends on."""
    width = config.encoder_hidden_size
    if config.encoder_type == "dinov2":
        return {"encoder.embeddings.mask_token": np.zeros((1, width), np.float32)}
    if config.encoder_type == "mae" or style == "transformers5":
        return {}
    inner = _HEAD_INNER_SIZE
    shapes = {
        "probe": (1, 1, width),
        "attention.in_proj_weight": (3 * width, width),
        "attention.in_proj_bias": (3 * width,),
        "attention.out_proj.weight": (width, width),
        "attention.out_proj.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
        "mlp.fc1.weight": (inner, width),
        "mlp.fc1.bias": (inner,),
        "mlp.fc2.weight": (width, inner),
        "mlp.fc2.bias": (width,),
    }
    return {_SIGLIP_HEAD + key: np.zeros(shape, np.float32) for key, shape in shapes.items()}


def _without_positions(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The entries but for the decoder's positions, which diffusers does not read."""
    if POSITIONS not in tensors:
        return tensors
    return {key: tensors[key] for key in tensors if key != POSITIONS}
