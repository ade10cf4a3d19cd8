"""Weights that a training run begins with, taken from what others have trained."""

import pathlib
from typing import Any

import numpy as np
from absl import logging
from flax import nnx

from rae_jax import build
from rae_jax.configuration.schema import Stage1Config, Stage2Config, parse
from rae_jax.layers.functional import Buffer, split
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.decoders.vit_decoder import ViTDecoder
from rae_jax.models.denoisers.base import TransformerDenoiser
from rae_jax.pretrained import load_autoencoder
from rae_jax.typing import Tree
from rae_jax.weights import checkpoints, convert
from rae_jax.weights.readers import TORCH_SUFFIXES, read_tensors
from rae_jax.weights.registry import KINDS
from rae_jax.weights.torch_files import read_torch

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


def initial_denoiser(config: Stage2Config, denoiser: TransformerDenoiser) -> tuple[Tree, Tree]:
    """Parameters and buffers of the denoiser that `config.init_from` names.

    Averaged weights are taken where there are any.

    Args:
        config: Of the run that begins.
        denoiser: The denoiser to be trained, or its shapes.

    Raises:
        FileNotFoundError: There is nothing at `init_from`.
        ValueError: It holds another denoiser.
    """
    name = config.init_from
    definition, params, buffers = split(denoiser, nnx.Param, Buffer)
    if pathlib.Path(name).suffix in _FILES:
        sets = checkpoints.weight_sets(_content(name))
        tensors = sets.get(checkpoints.EMA) or sets[checkpoints.RAW]
        kind = KINDS[config.denoiser.kind]
        try:
            loaded = convert.load(kind.table(denoiser), tensors, definition.merge(params, buffers))
        except convert.WeightError as error:
            raise convert.WeightError(f"init_from={name}: {error}") from None
        _, found = split(loaded)
        return _picked(params, found), _picked(buffers, found)
    noted = parse(Stage2Config, build.require_kind(name, build.STAGE2))
    if noted.denoiser != config.denoiser:
        raise ValueError(
            f"init_from={name} must be a run with the settings of the denoiser to be trained, "
            f"{config.denoiser}; it has {noted.denoiser}"
        )
    _, *trees = build.restore_model(name, params, buffers)
    return _picked(params, trees[0]), _picked(buffers, trees[1])


def _content(name: str) -> Any:
    if pathlib.Path(name).suffix in TORCH_SUFFIXES:
        return read_torch(name)
    return dict(read_tensors(name))


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
