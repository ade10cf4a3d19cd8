"""Models by their configuration with shapes in place of arrays: no weights are read.

Of what is published by name the sizes are known; of a folder its `config.json` is read.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from rae_jax import build
from rae_jax.configuration import schema
from rae_jax.configuration.reconstruction import RANDOM_FEATURES, DiscriminatorConfig, LPIPSConfig
from rae_jax.configuration.section import nearest
from rae_jax.layers.functional import abstract, freeze
from rae_jax.models.autoencoders.dc_config import DCConfig
from rae_jax.models.autoencoders.kl_config import KLConfig
from rae_jax.models.autoencoders.latent_normalization import (
    LatentNormalization,
    ScaledNormalization,
)
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.auxiliary.dino_discriminator import DINO, DINO_SIZES
from rae_jax.models.auxiliary.lpips import LPIPS
from rae_jax.models.auxiliary.vgg import VGG16
from rae_jax.models.compute import Compute
from rae_jax.weights import autoencoder_dc, autoencoder_kl, auxiliary, hub, readers
from rae_jax.weights.autoencoders import Loading, empty_parts
from rae_jax.weights.families import AnyAutoencoder, read_family
from rae_jax.weights.pretrained import Preprocessing, encoder_config, encoder_from_config
from rae_jax.weights.published_sizes import AUTOENCODERS, ENCODERS

# Values, not shapes, so they only stand in the program as constants.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def encoder(config: schema.AutoencoderConfig, compute: Compute) -> build.LoadedEncoder:
    """Shapes of the encoder that `build.encoder` loads.

    Raises:
        FileNotFoundError: It is neither published nor a folder with a `config.json`.
        ValueError: The sizes do not fit together.
    """
    name = config.encoder.path
    sizes = ENCODERS.get(name)
    if sizes is None:
        path = _config_file(name, ENCODERS, "autoencoder.encoder.path")
        sizes = encoder_config(readers.read_json(path))
    module = encoder_from_config(sizes, **compute.arguments)
    return build.frozen_encoder(config, module, Preprocessing(_MEAN, _STD))


def autoencoder(config: schema.AutoencoderConfig, compute: Compute) -> AnyAutoencoder:
    """Shapes of the autoencoder that `build.pretrained_autoencoder` loads.

    A decoder or statistics that the section does not name are left out, as they are there.

    Raises:
        FileNotFoundError: As `encoder`, also of `autoencoder.pretrained`.
        ValueError: The sizes do not fit together.
    """
    if config.pretrained:
        return freeze(_published(config.pretrained, compute))
    loaded = encoder(config, compute)
    decoder, normalization = None, None
    if config.checkpoint:
        decoder = abstract(lambda: build.decoder(config, loaded, compute, rngs=nnx.Rngs(0)))
    if config.statistics:
        shape = build.autoencoder(config, loaded, None).latent_shape(0)
        normalization = LatentNormalization(np.zeros(shape, np.float32), np.ones(shape, np.float32))
    return freeze(build.autoencoder(config, loaded, decoder, normalization))


def lpips(config: LPIPSConfig, compute: Compute) -> LPIPS:
    """Shapes of what `build.judging.lpips` loads."""
    if config.path == RANDOM_FEATURES:
        return abstract(lambda: auxiliary.random_lpips(dtype=compute.dtype))
    return freeze(abstract(lambda: LPIPS(VGG16(dtype=compute.dtype, rngs=nnx.Rngs(0)))))


def discriminator_backbone(config: DiscriminatorConfig, compute: Compute) -> DINO:
    """Shapes of what `build.judging.discriminator_backbone` loads.

    A file is taken to hold DINO-S/8, which the published recipe uses.
    """
    if config.path == RANDOM_FEATURES:
        return abstract(lambda: auxiliary.random_discriminator_backbone(**compute.arguments))
    sizes = DINO_SIZES["S_8"]
    return freeze(abstract(lambda: DINO(sizes, **compute.arguments, rngs=nnx.Rngs(0))))


def _published(name: str, compute: Compute) -> AnyAutoencoder:
    loading = Loading(compute)
    config = AUTOENCODERS.get(name)
    if config is None:
        _, config = read_family(_config_file(name, AUTOENCODERS, "autoencoder.pretrained"))
    if isinstance(config, KLConfig):
        return autoencoder_kl.empty(config, loading)
    if isinstance(config, DCConfig):
        return autoencoder_dc.empty(config, loading)
    config = dataclasses.replace(config, noise_tau=0.0, reshape_to_2d=True)
    parts = empty_parts(config, {}, loading)
    mean, std = np.zeros((2, *config.grid, config.encoder_hidden_size), np.float32)
    return AutoencoderRAE(
        parts.encoder,
        parts.decoder,
        encoder_input_size=config.encoder_input_size,
        image_mean=_MEAN,
        image_std=_STD,
        normalization=ScaledNormalization(mean, std),
    )


def _config_file(name: str, published: Mapping[str, Any], key: str) -> pathlib.Path:
    """The `config.json` of a folder or of a built-in model."""
    folder = pathlib.Path(name).expanduser()
    if name.startswith(hub.BUILTIN):
        folder = hub.resolve(name, ())
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{key} must be published under that name or be a folder with a config.json for its "
            f"sizes to be known, got {name!r}: {nearest(name, published)}"
        )
    return path
