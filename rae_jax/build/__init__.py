"""From configuration to objects: every lookup by name happens here and nowhere else."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
from flax import nnx

from rae_jax.build.denoising import (
    denoiser,
    denoiser_shapes,
    flow_matching,
    require_sampling,
    restored_denoiser,
    restored_guide,
    sampler,
)
from rae_jax.build.latents import (
    cached_latents,
    encoder_settings,
    image_settings,
    latent_fingerprints,
    require_same_encoding,
)
from rae_jax.build.runs import STAGE1, STAGE2, require_kind, restore_model
from rae_jax.checkpointing.experiment import checkpoint_folder
from rae_jax.checkpointing.fingerprint import fingerprints
from rae_jax.checkpointing.partial_restore import read_metadata
from rae_jax.configuration import resolve, schema
from rae_jax.data import pipeline, transforms
from rae_jax.data.sources.array_record import ArrayRecords
from rae_jax.data.sources.base import LabelledSource, Source
from rae_jax.data.sources.cached_latents import KeepPlace, ReadLatents, ReadMirrored
from rae_jax.data.sources.digits import Digits
from rae_jax.data.sources.image_folder import ImageFolder
from rae_jax.data.sources.tensorflow_datasets import TensorFlowDataset
from rae_jax.layers.functional import Buffer, abstract, freeze, split
from rae_jax.models.autoencoders.latent_normalization import LatentNormalization
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.compute import Compute
from rae_jax.models.decoders.vit_decoder import DecoderConfig, ViTDecoder
from rae_jax.models.encoders.base import Encoder
from rae_jax.models.encoders.vision_transformer import VisionTransformer
from rae_jax.reconstruction.latent_statistics import LatentStatistics
from rae_jax.weights import autoencoders
from rae_jax.weights.families import AnyAutoencoder, load_folder
from rae_jax.weights.pretrained import Preprocessing, load_encoder

__all__ = [
    "Compute",
    "LoadedEncoder",
    "STAGE1",
    "STAGE2",
    "autoencoder",
    "batches",
    "cached_latents",
    "decoder",
    "denoiser",
    "denoiser_shapes",
    "durations",
    "encoder",
    "encoder_fingerprint",
    "encoder_settings",
    "evaluation_batches",
    "flow_matching",
    "frozen_encoder",
    "has_decoder",
    "image_settings",
    "image_size",
    "latent_fingerprints",
    "pretrained_autoencoder",
    "require_classes",
    "require_image_size",
    "require_kind",
    "require_same_encoding",
    "require_sampling",
    "restore_model",
    "restored_denoiser",
    "restored_guide",
    "sampler",
    "source",
    "transformations",
    "without_chance",
]


def source(config: schema.DataConfig) -> LabelledSource:
    """Labelled images.

    Raises:
        FileNotFoundError: The folder or data set does not exist.
        ValueError: It holds no images, or not as it should; cached latents among them.
    """
    if config.source == schema.CACHED_LATENTS:
        raise ValueError(
            "data.source 'cached_latents' holds latents, which stage 2 alone trains on; name a "
            "source of images here"
        )
    if config.source == "digits":
        return Digits(config.split, image_size=config.image_size)
    kinds = {
        "image_folder": ImageFolder,
        "array_record": ArrayRecords,
        "tfds": TensorFlowDataset,
    }
    return kinds[config.source](config.path, config.split)


def require_classes(records: LabelledSource, config: schema.DenoiserConfig) -> None:
    """Raises ValueError if the denoiser has no row in its label table for some of the images."""
    count = len(records.classes)
    if count > config.num_classes:
        raise ValueError(
            f"the images have {count} classes, but denoiser.num_classes is {config.num_classes}; "
            f"set denoiser.num_classes={count}"
        )


def transformations(config: schema.DataConfig) -> list[pipeline.Transform]:
    """What happens to each image, or to its cached latents, in order."""
    if config.source == schema.CACHED_LATENTS:
        return [KeepPlace(), ReadMirrored()] if config.horizontal_flip else [ReadLatents()]
    crops: dict[str, Callable[[], pipeline.Transform]] = {
        "random": lambda: transforms.RandomCrop(config.image_size, config.resize_size),
        "center": lambda: transforms.CenterCrop(config.image_size),
        "none": lambda: transforms.RequireSize(config.image_size),
    }
    flips = [transforms.RandomFlip()] if config.horizontal_flip else []
    return [crops[config.crop](), *flips]


def batches(
    records: Source,
    config: schema.DataConfig,
    *,
    seed: int,
    global_batch_size: int,
    start_step: int,
) -> Iterator[pipeline.Batch]:
    """Endless training batches of this process, from that of `start_step` on."""
    return pipeline.batches(
        records,
        seed=seed,
        global_batch_size=global_batch_size,
        transforms=transformations(config),
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        loading=pipeline.Loading(
            num_threads=config.num_threads,
            num_workers=config.num_workers,
            max_unreadable=config.max_unreadable,
        ),
    )


def evaluation_batches(
    records: Source, config: schema.DataConfig, *, batch_size: int
) -> Iterator[pipeline.Batch]:
    """Every record once, in order; the same ones in every process.

    Raises:
        ValueError: The data section asks for random crops or flips.
    """
    return pipeline.evaluation_batches(
        records,
        batch_size=batch_size,
        transforms=transformations(config),  # pyright: ignore[reportArgumentType]
        num_threads=config.num_threads,
    )


def without_chance(config: schema.DataConfig) -> schema.DataConfig:
    """The section with a centre crop in place of a random one, and without flips."""
    crop = "center" if config.crop == "random" else config.crop
    return dataclasses.replace(config, crop=crop, horizontal_flip=False)


def durations(num_records: int, global_batch_size: int) -> Callable[[str], int]:
    """Function from text such as "16 epochs" to optimiser steps."""
    return functools.partial(
        resolve.steps,
        steps_per_epoch=resolve.steps_per_epoch(num_records, global_batch_size),
        global_batch_size=global_batch_size,
    )


@dataclasses.dataclass(frozen=True)
class LoadedEncoder:
    """A frozen encoder, and how it wants its pixels."""

    module: Encoder
    preprocessing: Preprocessing


def encoder(config: schema.AutoencoderConfig, compute: Compute) -> LoadedEncoder:
    """The pretrained encoder that the configuration names, its parameters frozen."""
    return frozen_encoder(config, *load_encoder(config.encoder.path, **compute.arguments))


def frozen_encoder(
    config: schema.AutoencoderConfig, module: VisionTransformer, preprocessing: Preprocessing
) -> LoadedEncoder:
    """An encoder, frozen in place, if it takes images of the configured size."""
    side, patch = config.encoder.input_size, module.patch_size
    if side % patch:
        raise ValueError(
            f"autoencoder.encoder.input_size must be a multiple of the encoder's patch size "
            f"{patch}, got {side}; the nearest below is {side - side % patch}"
        )
    return LoadedEncoder(freeze(module), preprocessing)


def encoder_fingerprint(encoder: LoadedEncoder) -> str:
    """Short hash of the encoder's parameters, bit for bit."""
    _, arrays = split(encoder.module)
    return fingerprints({"encoder": arrays})["encoder"]


def decoder(
    config: schema.AutoencoderConfig, encoder: LoadedEncoder, compute: Compute, *, rngs: nnx.Rngs
) -> ViTDecoder:
    """A decoder of the configured size with fresh parameters."""
    side = config.encoder.input_size // encoder.module.patch_size
    sizes = DecoderConfig(
        **dataclasses.asdict(config.decoder),
        latent_channels=encoder.module.hidden_size,
        grid=(side, side),
    )
    return ViTDecoder(sizes, **compute.arguments, rngs=rngs)


def autoencoder(
    config: schema.AutoencoderConfig,
    encoder: LoadedEncoder,
    decoder: ViTDecoder | None,
    normalization: LatentNormalization | None = None,
) -> AutoencoderRAE:
    """The parts joined."""
    return AutoencoderRAE(
        encoder.module,
        decoder,
        encoder_input_size=config.encoder.input_size,
        image_mean=encoder.preprocessing.mean,
        image_std=encoder.preprocessing.std,
        normalization=normalization,
    )


def image_size(config: schema.AutoencoderConfig, encoder: LoadedEncoder) -> int:
    """Side of the images that the decoder gives back."""
    return config.encoder.input_size // encoder.module.patch_size * config.decoder.patch_size


def require_image_size(
    config: schema.AutoencoderConfig, encoder: LoadedEncoder, data: schema.DataConfig
) -> None:
    """Raises ValueError unless the decoder's images have the size of the training images."""
    size = image_size(config, encoder)
    if data.image_size != size:
        raise ValueError(
            f"the decoder gives images of {size} pixels, but data.image_size is "
            f"{data.image_size}; set data.image_size={size}, or change "
            "autoencoder.decoder.patch_size or autoencoder.encoder.input_size"
        )


def pretrained_autoencoder(
    config: schema.AutoencoderConfig, compute: Compute, *, weights: str = "ema"
) -> AnyAutoencoder:
    """The configured autoencoder, trained or published, all frozen; its latents are grids.

    Args:
        config: Its `pretrained` is a folder or repository of diffusers, of any class in
            `FAMILIES`, and then the rest is not read. Its `checkpoint` is the work folder of the
            stage-1 run; "" leaves out the decoder, so that the autoencoder only encodes. Its
            `statistics` is the file of latent statistics; "" leaves latents as the encoder gives
            them.
        compute: How to compute.
        weights: "ema" or "raw".

    Raises:
        FileNotFoundError: A file or folder is missing.
        ValueError: What is there belongs to another configuration.
    """
    if config.pretrained:
        folder = autoencoders.find_diffusers(config.pretrained)
        return freeze(_for_stage2(load_folder(folder, autoencoders.Loading(compute))))
    loaded = encoder(config, compute)
    normalization = None
    if config.statistics:
        statistics = LatentStatistics.load(config.statistics)
        if statistics.encoder not in ("", encoder_fingerprint(loaded)):
            raise ValueError(
                f"{config.statistics} holds the statistics of another encoder than "
                f"{config.encoder.path}; compute them with this one"
            )
        normalization = LatentNormalization(
            statistics.mean.astype("float32"), statistics.variance.astype("float32")
        )
    restored = None
    if config.checkpoint:
        restored = _restored_decoder(config, loaded, compute, weights)
    return freeze(autoencoder(config, loaded, restored, normalization))


def _for_stage2(published: AnyAutoencoder) -> AnyAutoencoder:
    """A RAE with its latents as grids and without the noise that its decoder was trained with."""
    if isinstance(published, AutoencoderRAE):
        published.options = dataclasses.replace(published.options, reshape_to_2d=True)
        published.noise = None
    return published


def has_decoder(config: schema.AutoencoderConfig) -> bool:
    """Whether `pretrained_autoencoder` gives one that makes images of latents."""
    return bool(config.checkpoint or config.pretrained)


def _restored_decoder(
    config: schema.AutoencoderConfig, loaded: LoadedEncoder, compute: Compute, weights: str
) -> ViTDecoder:
    noted = schema.parse(schema.Stage1Config, require_kind(config.checkpoint, STAGE1)).autoencoder
    # Sizes such as the number of heads change no array, so the checkpoint alone would not tell.
    for name, ours, theirs in (
        ("decoder", config.decoder, noted.decoder),
        ("encoder.input_size", config.encoder.input_size, noted.encoder.input_size),
    ):
        if ours != theirs:
            raise ValueError(
                f"autoencoder.{name} must be that of the stage-1 run in {config.checkpoint}, "
                f"{theirs}, got {ours}"
            )
    trained_on = read_metadata(checkpoint_folder(config.checkpoint))["frozen"]["encoder"]
    if trained_on != encoder_fingerprint(loaded):
        raise ValueError(
            f"the decoder in {config.checkpoint} was trained on another encoder than "
            f"{config.encoder.path}; set autoencoder.encoder.path to the one it was trained on"
        )
    empty = abstract(lambda: decoder(config, loaded, compute, rngs=nnx.Rngs(0)))
    definition, params, buffers = split(empty, nnx.Param, Buffer)
    _, *trees = restore_model(
        config.checkpoint, {"decoder": params}, {"decoder": buffers}, weights=weights
    )
    return definition.merge(*(tree["decoder"] for tree in trees))
