"""What a published model becomes here: its sizes, and the run that its work folder stands for."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from rae_jax import build
from rae_jax.checkpointing.fingerprint import fingerprints
from rae_jax.configuration.errors import ConfigError
from rae_jax.configuration.schema import (
    AutoencoderConfig,
    DataConfig,
    EncoderConfig,
    LightningDiTConfig,
    Stage1Config,
    Stage2Config,
    parse,
)
from rae_jax.files import any_path
from rae_jax.layers.functional import freeze, split
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.porting.models import FileSizes, Model, configured, of_kind, preset
from rae_jax.pretrained import is_run
from rae_jax.weights.convert import WeightError
from rae_jax.weights.families import AnyAutoencoder
from rae_jax.weights.pretrained import load_encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to convert.

    Attributes:
        kind: Name in the registry.
        source: The published file or folder.
        output: What is written: a work folder, a folder of an encoder, or an npz of statistics.
        config: Settings of training that give the sizes of a model.
        model: Published sizes in their place.
        encoder: The encoder that the decoder or the statistics belong to.
        autoencoder: Work folder of the decoder that the denoiser's latents belong to, or an
            autoencoder in a folder or repository of diffusers.
        statistics: Latent statistics that the denoiser was trained with.
        weights: "ema", "raw" or a dotted path in a training checkpoint; "" takes both of the
            former where there are both.
    """

    kind: str
    source: str
    output: str
    config: Any = None
    model: str = ""
    encoder: str = ""
    autoencoder: str = ""
    statistics: str = ""
    weights: str = ""


def load_frozen(name: str) -> build.LoadedEncoder:
    """An encoder by name, frozen."""
    module, preprocessing = load_encoder(name, **build.Compute().arguments)
    return build.LoadedEncoder(freeze(module), preprocessing)


def require_width(encoder: build.LoadedEncoder, channels: int, request: Request) -> None:
    """Raises WeightError unless the encoder's features have the channels that the file has."""
    if encoder.module.hidden_size != channels:
        raise WeightError(
            f"{request.source} is for latents of {channels} channels, but the encoder gives "
            f"{encoder.module.hidden_size}; name the encoder that it belongs to"
        )


def _require_sizes(request: Request) -> None:
    if bool(request.config) == bool(request.model):
        raise ConfigError(
            "the sizes come from either --config, a config file for training, or --model, a "
            f"published size; {'both are' if request.model else 'neither is'} given"
        )


def _decoder(request: Request, sizes: FileSizes, dry_run: bool) -> tuple[Model, dict[str, str]]:
    _require_sizes(request)
    side, channels = sizes.grid(), sizes.channels()
    if request.config:
        config = configured(request.kind, request.config)
    else:
        section = dataclasses.replace(
            preset(request.kind, request.model), patch_size=sizes.patch_size()
        )
        config = Stage1Config(autoencoder=AutoencoderConfig(decoder=section))
    if request.encoder:
        config = _with_encoder(config, path=request.encoder)
    elif request.model and not dry_run:
        raise ConfigError("--encoder is missing; name the encoder that the decoder belongs to")
    if dry_run and side is not None:
        return of_kind(request.kind, config, (side, side, channels)), {}
    encoder = load_frozen(config.autoencoder.encoder.path)
    require_width(encoder, channels, request)
    if request.model and side is not None:
        config = _with_encoder(config, input_size=side * encoder.module.patch_size)
        image_size = build.image_size(config.autoencoder, encoder)
        data = DataConfig(image_size=image_size, crop="center")
        config = dataclasses.replace(config, data=data)
    own_side = config.autoencoder.encoder.input_size // encoder.module.patch_size
    if side not in (None, own_side):
        raise WeightError(
            f"{request.source} is for a grid of {side}x{side} latents, but images of "
            f"autoencoder.encoder.input_size={config.autoencoder.encoder.input_size} give "
            f"{own_side}x{own_side}; set it to {side * encoder.module.patch_size}"
        )
    build.require_image_size(config.autoencoder, encoder, config.data)
    model = of_kind(request.kind, config, (own_side, own_side, channels))
    return model, {"encoder": build.encoder_fingerprint(encoder)}


def _with_encoder(config: Any, **changes: Any) -> Any:
    section: EncoderConfig = dataclasses.replace(config.autoencoder.encoder, **changes)
    autoencoder = dataclasses.replace(config.autoencoder, encoder=section)
    return dataclasses.replace(config, autoencoder=autoencoder)


def _denoiser(request: Request, sizes: FileSizes, dry_run: bool) -> tuple[Model, dict[str, str]]:
    _require_sizes(request)
    if request.config:
        config = configured(request.kind, request.config)
    else:
        config = _published_denoiser(request, sizes)
    if request.autoencoder:
        config = _with_autoencoder(config, request.autoencoder)
    elif request.model and not dry_run:
        raise ConfigError(
            "--autoencoder is missing; name the work folder of the decoder that the latents "
            "belong to, which --kind=decoder writes, or a folder or repository of diffusers"
        )
    if request.statistics:
        section = dataclasses.replace(config.autoencoder, statistics=request.statistics)
        config = dataclasses.replace(config, autoencoder=section)
    side, channels = sizes.grid(), sizes.channels()
    if dry_run and side is not None:
        return of_kind(request.kind, config, (side, side, channels)), {}
    autoencoder = build.pretrained_autoencoder(config.autoencoder, build.Compute())
    size = _image_size(autoencoder, side) if request.model else None
    if size is not None:
        data = DataConfig(image_size=size, crop="center", horizontal_flip=True)
        config = dataclasses.replace(config, data=data)
    latent_shape = autoencoder.latent_shape(config.data.image_size)
    found = (side or latent_shape[0], side or latent_shape[1], channels)
    if found != latent_shape:
        raise WeightError(
            f"{request.source} is for latents of shape {found} (h, w, C), but the autoencoder "
            f"gives {latent_shape}; name the one that it belongs to"
        )
    _, frozen = split(autoencoder)
    return of_kind(request.kind, config, latent_shape), fingerprints(frozen)


def _image_size(autoencoder: AnyAutoencoder, side: int | None) -> int | None:
    """Side of the images of a grid of latents, as far as can be told."""
    if isinstance(autoencoder, AutoencoderRAE):
        return None if autoencoder.decoder is None else autoencoder.image_size
    return None if side is None else side * autoencoder.config.compression


def _with_autoencoder(config: Stage2Config, name: str) -> Stage2Config:
    if is_run(any_path(name).expanduser()):
        noted = parse(Stage1Config, build.require_kind(name, build.STAGE1))
        section = dataclasses.replace(noted.autoencoder, checkpoint=name)
    else:
        section = AutoencoderConfig(pretrained=name)
    return dataclasses.replace(config, autoencoder=section)


def _published_denoiser(request: Request, sizes: FileSizes) -> Stage2Config:
    """Settings with published sizes, but for those that the file tells."""
    section = preset(request.kind, request.model)
    rows = sizes.label_rows()
    # The last row stands for no label; published models of all classes but one row are without.
    has_null_label = rows != section.num_classes
    changes = {"num_classes": rows - has_null_label, "patch_size": sizes.patch_size()}
    if isinstance(section, LightningDiTConfig):
        changes["has_sigma"] = sizes.has_sigma()
    return Stage2Config(
        denoiser=dataclasses.replace(section, **changes),
        label_dropout=Stage2Config().label_dropout if has_null_label else 0.0,
    )


PLANS: Mapping[str, Callable[[Request, FileSizes, bool], tuple[Model, dict[str, str]]]] = {
    "decoder": _decoder,
    "dit_dh": _denoiser,
    "lightning_dit": _denoiser,
}
"""(request, what the file tells, whether nothing is written) -> the model, and fingerprints of
the frozen models that it stands on, which stay out if nothing is written."""
