"""Latents on disk, and whether they are of the autoencoder that a run names."""

import dataclasses
from typing import Any

import numpy as np

from rae_jax.checkpointing.fingerprint import digest, fingerprints
from rae_jax.configuration import schema
from rae_jax.data.sources.cached_latents import CachedLatents
from rae_jax.layers.functional import split
from rae_jax.models.autoencoders.base import Autoencoder
from rae_jax.models.autoencoders.latent_normalization import ScaledNormalization
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.encoders.vision_transformer import VisionTransformer

_DECODING = ("decoder", "post_quant")
_IMAGES = ("split", "image_size", "crop")


def latent_fingerprints(autoencoder: Autoencoder) -> dict[str, str]:
    """Short hashes of all that the latents of images depend on: arrays by their part, and settings.

    The decoder is left out: it may still be trained, or be another one.
    """
    _, arrays = split(autoencoder)  # pyright: ignore[reportArgumentType]
    encoding = {name: tree for name, tree in arrays.items() if name not in _DECODING}
    return {**fingerprints(encoding), "settings": digest(_settings(autoencoder))}


def image_settings(config: schema.DataConfig) -> dict[str, Any]:
    """What describes the images of cached latents."""
    return {name: getattr(config, name) for name in _IMAGES}


def encoder_settings(config: schema.AutoencoderConfig) -> dict[str, Any]:
    """What names the encoder of cached latents."""
    return {
        "encoder": dataclasses.asdict(config.encoder),
        "statistics": config.statistics,
        "pretrained": config.pretrained,
    }


def cached_latents(config: schema.DataConfig) -> CachedLatents:
    """The latents that the section names.

    Raises:
        FileNotFoundError: There are none.
        ValueError: They are of other images, or have no mirrored versions and shall be flipped.
    """
    source = CachedLatents(config.path)
    noted = source.manifest.images
    for name, value in image_settings(config).items():
        if noted.get(name) != value:
            raise ValueError(
                f"the latents in {config.path} are of images with {name} {noted.get(name)!r}; set "
                f"data.{name} to it, or cache latents of others, got {value!r}"
            )
    if config.horizontal_flip and not source.manifest.mirrored:
        raise ValueError(
            f"the latents in {config.path} have none of mirrored images; cache them with "
            "data.horizontal_flip, or set data.horizontal_flip=False"
        )
    return source


def require_same_encoding(
    source: CachedLatents, config: schema.Stage2Config, autoencoder: Autoencoder | None
) -> None:
    """Raises ValueError if the latents were made with another autoencoder.

    Args:
        source: The latents.
        config: Of the run.
        autoencoder: The run's, if it has been loaded; without, the settings that name it must be
            those noted with the latents.
    """
    noted, path = source.manifest, config.data.path
    if autoencoder is None:
        ours = encoder_settings(config.autoencoder)
        different = [name for name in ours if noted.encoder.get(name) != ours[name]]
        if different:
            name = different[0]
            raise ValueError(
                f"the latents in {path} were made with autoencoder.{name} "
                f"{noted.encoder.get(name)!r}, got {ours[name]!r}; set it back, or cache latents "
                "with this one"
            )
        return
    ours = latent_fingerprints(autoencoder)
    if ours != noted.fingerprints:
        parts = sorted(ours.keys() | noted.fingerprints.keys())
        different = [name for name in parts if ours.get(name) != noted.fingerprints.get(name)]
        raise ValueError(
            f"the latents in {path} were made with another autoencoder: {' and '.join(different)} "
            "differ; name the one they were made with, or cache latents with this one"
        )


def _settings(autoencoder: Autoencoder) -> dict[str, Any]:
    """What changes latents, and is no array."""
    if not isinstance(autoencoder, AutoencoderRAE):
        return dataclasses.asdict(autoencoder.config)  # pyright: ignore[reportAttributeAccessIssue]
    encoder, rule = autoencoder.encoder, autoencoder.normalization
    settings = {
        "encoder": type(encoder).__name__,
        "encoder_input_size": autoencoder.encoder_input_size,
        # Rounded to float32, as files may hold them.
        "image_mean": np.asarray(autoencoder.image_mean, np.float32).tolist(),
        "image_std": np.asarray(autoencoder.image_std, np.float32).tolist(),
        "normalization": type(rule).__name__,
    }
    if isinstance(encoder, VisionTransformer):
        settings["sizes"] = dataclasses.asdict(encoder.config)
    if isinstance(rule, ScaledNormalization):
        settings["scaling_factor"] = rule.scaling_factor
    return settings
