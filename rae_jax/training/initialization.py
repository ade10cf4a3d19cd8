"""Weights that a training run begins with, taken from what others have trained."""

import pathlib

import numpy as np
from absl import logging
from flax import nnx

from rae_jax.configuration.schema import Stage1Config
from rae_jax.layers.functional import Buffer, split
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.decoders.vit_decoder import ViTDecoder
from rae_jax.pretrained import load_autoencoder
from rae_jax.typing import Tree
from rae_jax.weights.readers import TORCH_SUFFIXES

_SIZES = ("hidden_size", "depth", "num_heads", "intermediate_size", "latent_channels", "patch_size")
_FILES = (*TORCH_SUFFIXES, ".safetensors")


def initial_decoder(config: Stage1Config, decoder: ViTDecoder) -> tuple[Tree, Tree]:
    """Parameters and buffers of the decoder that `config.init_from` names.

    Of a run its averaged weights are taken. A decoder of another grid gives all but its table of
    positions.

    Args:
        config: Of the run that begins.
        decoder: The decoder to be trained, or its shapes.

    Raises:
        FileNotFoundError: There is nothing at `init_from`.
        ValueError: It holds a decoder of other sizes.
    """
    loaded = _decoder(config)
    ours, theirs = decoder.config, loaded.config
    different = [
        f"{name} {getattr(ours, name)} and {getattr(theirs, name)}"
        for name in _SIZES
        if getattr(ours, name) != getattr(theirs, name)
    ]
    if different:
        raise ValueError(
            f"the decoder in init_from={config.init_from} must have the sizes of the one to be "
            f"trained; they differ in {', '.join(different)}; change autoencoder.decoder or "
            "autoencoder.encoder"
        )
    _, params, buffers = split(decoder, nnx.Param, Buffer)
    _, found = split(loaded)
    if ours.grid != theirs.grid:
        logging.info("init_from: grid %s to %s, with new positions", theirs.grid, ours.grid)
        found["position_table"] = ours.positions()
    return {"decoder": _picked(params, found)}, {"decoder": _picked(buffers, found)}


def _decoder(config: Stage1Config) -> ViTDecoder:
    name = config.init_from
    if pathlib.Path(name).suffix in _FILES:
        encoder = config.autoencoder.encoder
        loaded = load_autoencoder(
            encoder.path,
            decoder=name,
            encoder_input_size=encoder.input_size,
            num_heads=config.autoencoder.decoder.num_heads,
        )
    else:
        loaded = load_autoencoder(name)
    if not isinstance(loaded, AutoencoderRAE) or loaded.decoder is None:
        raise ValueError(f"init_from={name} must hold a RAE with a decoder")
    return loaded.decoder


def _picked(like: Tree, tree: Tree) -> Tree:
    """The leaves of `tree` that stand where `like` has one, on the host."""
    return {
        name: _picked(value, tree[name]) if isinstance(value, dict) else np.asarray(tree[name])
        for name, value in like.items()
    }
