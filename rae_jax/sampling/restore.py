"""A trained denoiser with all that it takes to draw images, ready for any jit, mesh or pmap."""

import dataclasses

import jax
import jax.numpy as jnp

from rae_jax import build
from rae_jax.checkpointing.experiment import checkpoint_folder
from rae_jax.checkpointing.partial_restore import latest_step
from rae_jax.configuration.schema import SamplingConfig, Stage2Config, parse
from rae_jax.layers.functional import split
from rae_jax.sampling.generate import Generator, Weights
from rae_jax.typing import Array, Key, Tree

_NOISE = 1
"""Purpose of the key; that of the labels has another."""


def noise_key(seed: int) -> Key[Array, ""]:
    """Key of the starting noise of all samples of a set."""
    return jax.random.fold_in(jax.random.key(jnp.uint32(seed)), _NOISE)


@dataclasses.dataclass(frozen=True, eq=False)
class Restored:
    """Models of finished runs as a pure function and its arguments.

    Attributes:
        generator: `generator(weights, frozen, key, index, labels, guidance_scale=None)`.
        weights: Of the denoiser, and of the guide if there is one.
        frozen: The autoencoder's arrays.
        num_classes: Labels are below this.
        steps: Model -> step of the checkpoint that its weights are from.
    """

    generator: Generator
    weights: Weights
    frozen: Tree
    num_classes: int
    steps: dict[str, int]


def require_samples(config: SamplingConfig) -> tuple[Stage2Config, dict[str, int]]:
    """What can be told before anything large is loaded.

    Returns:
        Settings of the stage-2 run, and the newest step of each model.

    Raises:
        FileNotFoundError: A run is missing, or has no checkpoint.
        ValueError: A folder holds another kind of run, or one that gives no images.
    """
    if not config.checkpoint:
        raise ValueError(
            "checkpoint is not set; set --config.checkpoint to the work folder of a stage-2 run"
        )
    stage2 = parse(Stage2Config, build.require_kind(config.checkpoint, build.STAGE2))
    if not build.has_decoder(stage2.autoencoder):
        raise ValueError(
            f"the stage-2 run in {config.checkpoint} has no decoder, so its samples cannot become "
            "images; train it with autoencoder.checkpoint or autoencoder.pretrained set"
        )
    build.require_sampling(config, stage2)
    folders = {"denoiser": config.checkpoint}
    if config.guidance.method == "autoguidance":
        folders["guide"] = config.guidance.checkpoint
    return stage2, {name: latest_step(checkpoint_folder(path)) for name, path in folders.items()}


def restore(config: SamplingConfig) -> Restored:
    """Reads the models that `config` names onto the default device.

    Of `config` it uses `checkpoint`, `weights`, `sampler` and `guidance`.

    Raises:
        FileNotFoundError: A run or file is missing.
        ValueError: Settings or files do not fit together.
    """
    stage2, _ = require_samples(config)
    autoencoder = build.pretrained_autoencoder(stage2.autoencoder, build.Compute.of(stage2))
    latent_shape = autoencoder.latent_shape(stage2.data.image_size)
    step, definition, weights = build.restored_denoiser(
        config.checkpoint, stage2, latent_shape, weights=config.weights
    )
    models, steps, guide = {"denoiser": weights}, {"denoiser": step}, None
    if config.guidance.method == "autoguidance":
        steps["guide"], guide, models["guide"] = build.restored_guide(config.guidance, latent_shape)
    autoencoder_definition, frozen = split(autoencoder)
    transport = build.flow_matching(stage2.transport, latent_shape)
    sampler = build.sampler(transport, latent_shape, config.sampler, config.guidance)
    generator = Generator(definition, autoencoder_definition, sampler, guide)
    return Restored(generator, models, frozen, stage2.denoiser.num_classes, steps)
