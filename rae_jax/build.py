"""From configuration to objects: every lookup by name happens here and nowhere else."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

from rae_jax.checkpointing.experiment import checkpoint_folder, read_experiment
from rae_jax.checkpointing.fingerprint import fingerprints
from rae_jax.checkpointing.partial_restore import read_metadata, restore_entries
from rae_jax.configuration import resolve, schema
from rae_jax.data import pipeline, transforms
from rae_jax.data.sources.base import Source
from rae_jax.data.sources.digits import Digits
from rae_jax.data.sources.image_folder import ImageFolder
from rae_jax.diffusion.flow import Flow
from rae_jax.diffusion.guidance import Guidance
from rae_jax.diffusion.losses import FlowMatching
from rae_jax.diffusion.paths import PATHS
from rae_jax.diffusion.sampler import Sampler
from rae_jax.diffusion.sde import Diffusion, Process, sde_interval
from rae_jax.diffusion.time_grids import sampling_interval, time_grid
from rae_jax.diffusion.time_sampling import TimeDistribution, time_shift
from rae_jax.layers.adaln_block import BlockStyle
from rae_jax.layers.functional import Buffer, Definition, abstract, freeze, split
from rae_jax.models.autoencoders.latent_normalization import LatentNormalization
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.compute import Compute
from rae_jax.models.decoders.vit_decoder import DecoderConfig, ViTDecoder
from rae_jax.models.denoisers.base import TransformerDenoiser
from rae_jax.models.denoisers.dit_dh import DiTDH, DiTDHConfig
from rae_jax.models.denoisers.lightning_dit import LightningDiT, LightningDiTConfig
from rae_jax.models.encoders.base import Encoder
from rae_jax.reconstruction.latent_statistics import LatentStatistics
from rae_jax.typing import Tree
from rae_jax.weights import autoencoders
from rae_jax.weights.pretrained import Preprocessing, load_encoder

STAGE1, STAGE2 = "stage1", "stage2"
"""Kinds of runs that models are loaded from, as noted in their work folders."""


def source(config: schema.DataConfig) -> Digits | ImageFolder:
    """Labelled images.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It holds no images.
    """
    if config.source == "digits":
        return Digits(config.split, image_size=config.image_size)
    return ImageFolder(config.path, config.split)


def require_classes(records: Digits | ImageFolder, config: schema.DenoiserConfig) -> None:
    """Raises ValueError if the denoiser has no row in its label table for some of the images."""
    count = len(records.classes)
    if count > config.num_classes:
        raise ValueError(
            f"the images have {count} classes, but denoiser.num_classes is {config.num_classes}; "
            f"set denoiser.num_classes={count}"
        )


def transformations(config: schema.DataConfig) -> list[pipeline.Transform]:
    """What happens to each image, in order."""
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
        num_threads=config.num_threads,
    )


def evaluation_batches(
    records: Source, config: schema.DataConfig, *, batch_size: int
) -> Iterator[pipeline.Batch]:
    """Every record once, in order.

    Raises:
        ValueError: The data section asks for random crops or flips.
    """
    return pipeline.evaluation_batches(
        records,
        batch_size=batch_size,
        transforms=transformations(config),  # pyright: ignore[reportArgumentType]
        process_index=jax.process_index(),
        process_count=jax.process_count(),
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
    module, preprocessing = load_encoder(config.encoder.path, **compute.arguments)
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
) -> AutoencoderRAE:
    """The configured autoencoder, trained or published, all frozen; its latents are grids.

    Args:
        config: Its `pretrained` is a folder or repository of diffusers, and then the rest is not
            read. Its `checkpoint` is the work folder of the stage-1 run; "" leaves out the decoder,
            so that the autoencoder only encodes. Its `statistics` is the file of latent
            statistics; "" leaves latents as the encoder gives them.
        compute: How to compute.
        weights: "ema" or "raw".

    Raises:
        FileNotFoundError: A file or folder is missing.
        ValueError: What is there belongs to another configuration.
    """
    if config.pretrained:
        folder = autoencoders.find_diffusers(config.pretrained)
        published = autoencoders.load_diffusers(folder, autoencoders.Loading(compute))
        published.options = dataclasses.replace(published.options, reshape_to_2d=True)
        return freeze(published)
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


def flow_matching(
    config: schema.TransportConfig, latent_shape: tuple[int, int, int]
) -> FlowMatching:
    """What the denoiser is trained on; the time shift follows from the shape of the latents."""
    times = TimeDistribution(
        config.time_distribution,
        logit_mean=config.logit_mean,
        logit_std=config.logit_std,
        shift=time_shift(latent_shape, config.time_shift_base),
    )
    return FlowMatching(PATHS[config.path], config.prediction, times, config.loss_weight)


def sampler(
    transport: FlowMatching,
    latent_shape: tuple[int, int, int],
    config: schema.SamplerConfig,
    guidance: schema.GuidanceConfig,
) -> Sampler:
    """The configured integration and guidance, on the time grid that fits the transport.

    Raises:
        ValueError: The integration is undefined for the path or prediction of the transport.
    """
    path, prediction = transport.path, transport.prediction
    if config.mode == "sde":
        diffusion = Diffusion(config.diffusion_form, config.diffusion_norm)
        integrator = Process(path, prediction, diffusion, config.method, config.last_step)
        last = 0.0 if config.last_step == "none" else config.last_step_size
        interval = sde_interval(path, prediction, last)
    else:
        integrator = Flow(path, prediction, config.method, config.rtol, config.atol)
        interval = sampling_interval(path, prediction)
    grid = time_grid(
        config.num_steps,
        shift=transport.times.shift,
        interval=interval,
        final_step=config.final_step,
    )
    backbone_steps = config.backbone_steps
    if config.backbone_every > 1:
        backbone_steps = tuple(range(0, config.num_steps - 1, config.backbone_every))
    return Sampler(
        latent_shape,
        tuple(float(t) for t in grid),
        integrator,
        Guidance(guidance.method, guidance.scale, guidance.interval),
        backbone_steps,
    )


def denoiser(
    config: schema.DenoiserConfig,
    latent_shape: tuple[int, int, int],
    compute: Compute,
    *,
    has_null_label: bool,
    rngs: nnx.Rngs,
) -> TransformerDenoiser:
    """A denoiser of the configured kind and size with fresh parameters.

    Args:
        config: Sizes.
        latent_shape: (h, w, C) of the latents.
        compute: How to compute.
        has_null_label: Whether training drops labels; without, guidance by the null label would
            ask a row that was never trained.
        rngs: Source of the initial parameters.

    Raises:
        ValueError: The patch size does not divide the latents, or the heads not the widths.
    """
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    style = {field.name: values.pop(field.name) for field in dataclasses.fields(BlockStyle)}
    module, sizes = _DENOISERS[values.pop("kind")]
    made = sizes(
        latent_shape=latent_shape,
        has_null_label=has_null_label,
        style=BlockStyle(**style),
        **values,
    )
    return module(made, **compute.arguments, rngs=rngs)


_DENOISERS: dict[str, tuple[type[Any], type[Any]]] = {
    "dit_dh": (DiTDH, DiTDHConfig),
    "lightning_dit": (LightningDiT, LightningDiTConfig),
}


def restored_denoiser(
    workdir: str,
    config: schema.Stage2Config,
    latent_shape: tuple[int, int, int],
    *,
    weights: str = "ema",
) -> tuple[int, Definition[Any], tuple[Tree, Tree]]:
    """The denoiser of a stage-2 run from its newest sound checkpoint.

    Args:
        workdir: Work folder of the run.
        config: Settings of the run.
        latent_shape: (h, w, C) of the latents.
        weights: "ema" or "raw".

    Returns:
        Step of the checkpoint, structure of the denoiser, its parameters and buffers.

    Raises:
        FileNotFoundError: No checkpoint there.
        ValueError: All are damaged.
    """
    empty = abstract(
        lambda: denoiser(
            config.denoiser,
            latent_shape,
            Compute.of(config),
            has_null_label=config.label_dropout > 0,
            rngs=nnx.Rngs(0),
        )
    )
    definition, params, buffers = split(empty, nnx.Param, Buffer)
    step, *trees = restore_model(workdir, params, buffers, weights=weights)
    return step, definition, (trees[0], trees[1])


def require_sampling(config: schema.SamplingConfig, stage2: schema.Stage2Config) -> None:
    """Checks what the denoiser of a run can do, before anything large is loaded.

    Args:
        config: What is asked of it.
        stage2: Settings of the run in its `checkpoint`.

    Raises:
        FileNotFoundError: The guide's run is missing.
        ValueError: Guidance or shared backbone states ask for what the denoiser does not have, or
            the guide is of other latents, classes or predictions.
    """
    shared = config.sampler.backbone_every > 1 or config.sampler.backbone_steps
    if shared and stage2.denoiser.kind != "dit_dh":
        raise ValueError(
            f"the denoiser in {config.checkpoint} is a {stage2.denoiser.kind}, which has no "
            "backbone whose state steps could share; leave sampler.backbone_every at 1 and "
            "sampler.backbone_steps empty"
        )
    _require_guide(config.guidance, config.checkpoint, stage2, bool(shared))


def _require_guide(
    config: schema.GuidanceConfig, checkpoint: str, stage2: schema.Stage2Config, shared: bool
) -> None:
    if config.method == "classifier_free" and not stage2.label_dropout:
        raise ValueError(
            f"the denoiser in {checkpoint} was trained without label dropout and has no null "
            "label; set guidance.method to 'none' or 'autoguidance'"
        )
    if config.method != "autoguidance":
        return
    guide = schema.parse(schema.Stage2Config, require_kind(config.checkpoint, STAGE2))
    if shared and guide.denoiser.kind != "dit_dh":
        raise ValueError(
            f"the guide in {config.checkpoint} must be a dit_dh for steps to share backbone "
            f"states, it is a {guide.denoiser.kind}; name another run in guidance.checkpoint"
        )
    folders = config.checkpoint, checkpoint
    frozen = [read_metadata(checkpoint_folder(folder)).get("frozen", {}) for folder in folders]
    for name, guides, ours in (
        ("transport.path", guide.transport.path, stage2.transport.path),
        ("transport.prediction", guide.transport.prediction, stage2.transport.prediction),
        ("denoiser.num_classes", guide.denoiser.num_classes, stage2.denoiser.num_classes),
        *((part, *(noted.get(part) for noted in frozen)) for part in ("encoder", "normalization")),
    ):
        if guides != ours:
            raise ValueError(
                f"the guide in {config.checkpoint} must have the {name} of the denoiser in "
                f"{checkpoint}, {ours}, got {guides}; name another run in guidance.checkpoint"
            )


def restored_guide(
    config: schema.GuidanceConfig, latent_shape: tuple[int, int, int]
) -> tuple[int, Definition[Any], tuple[Tree, Tree]]:
    """The weaker denoiser of autoguidance, which `require_sampling` has checked.

    Returns:
        As `restored_denoiser`.
    """
    guide = schema.parse(schema.Stage2Config, require_kind(config.checkpoint, STAGE2))
    return restored_denoiser(config.checkpoint, guide, latent_shape, weights=config.weights)


def restore_model(
    workdir: str, params: Tree, buffers: Tree, *, weights: str = "ema"
) -> tuple[int, Tree, Tree]:
    """Step, parameters and buffers of a run's newest sound checkpoint, given their shapes."""
    entry = {"ema": "ema", "raw": "params"}[weights]
    step, restored = restore_entries(
        checkpoint_folder(workdir), {entry: params, "buffers": buffers}
    )
    return step, restored[entry], restored["buffers"]


def require_kind(workdir: str, kind: str) -> dict[str, Any]:
    """Settings of the run in `workdir`, which must be of `kind`.

    Raises:
        FileNotFoundError: No run there.
        ValueError: A run of another kind.
    """
    found, config = read_experiment(workdir)
    if found != kind:
        raise ValueError(f"{workdir} must hold a run of {kind}, it holds one of {found}")
    return config
