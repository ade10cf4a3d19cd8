"""What training and sampling compile, from a configuration alone: shapes in place of all arrays."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rae_jax import build
from rae_jax.build import shapes
from rae_jax.build.meshes import frozen_shardings, require_divisible, require_heads
from rae_jax.configuration.schema import (
    CACHED_LATENTS,
    SamplingConfig,
    Stage1Config,
    Stage2Config,
)
from rae_jax.layers.functional import split
from rae_jax.models.autoencoders.base import latent_moments
from rae_jax.monitoring.operations import count_operations
from rae_jax.ops.images import to_float
from rae_jax.sampling import samples
from rae_jax.sampling.generate import Generator
from rae_jax.sampling.restore import noise_key
from rae_jax.sharding.mesh import batch_sharding, make_mesh, replicated
from rae_jax.sharding.rules import require_cut, tree_shardings
from rae_jax.training import loop, run, stage1, stage2
from rae_jax.typing import PyTree

_IMAGENET = 1_281_167
"""Images in an epoch, which only turns durations into numbers of steps."""


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """One jitted function with the shapes and shardings that it is called with.

    Attributes:
        name: "stage1", "stage2" or "sampling".
        mesh: That it is traced under.
        function: Jitted as training and sampling do it.
        arguments: Shapes with shardings.
        kinds: Kind of memory -> the arguments that make it up.
        images: Per call, over all devices.
    """

    name: str
    mesh: Mesh
    function: Any
    arguments: tuple[PyTree, ...]
    kinds: Mapping[str, PyTree]
    images: int

    def lower(self) -> Any:
        """The program as JAX hands it to the compiler."""
        with jax.set_mesh(self.mesh):
            return self.function.lower(*self.arguments)

    def operations(self) -> float:
        """Floating-point operations of a call over all devices, see `count_operations`."""
        with jax.set_mesh(self.mesh):
            platform = self.mesh.devices.flat[0].platform
            return count_operations(self.function, *self.arguments, platform=platform)


def training(config: Stage1Config | Stage2Config, devices: Any) -> Program:
    """The step of a stage as `training.run` compiles it.

    Raises:
        FileNotFoundError: The sizes of a model that the configuration names are not known.
        ValueError: Settings do not fit together or not on so many devices.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices)
    require_divisible(config.global_batch_size, mesh, config.gradient_accumulation)
    require_heads(config, mesh)
    name, make = ("stage1", _stage1) if isinstance(config, Stage1Config) else ("stage2", _stage2)
    program, batch = make(config)  # pyright: ignore[reportArgumentType]
    state = jax.eval_shape(program.initial_state)
    require_cut(state, mesh.shape)
    state = _placed(state, tree_shardings(state, mesh))
    frozen = _placed(program.frozen, frozen_shardings(program.frozen, mesh, config.mesh))
    batch = _placed(batch, batch_sharding(mesh))
    discriminator = getattr(state, "discriminator", None)
    kinds = {
        "parameters": [state.params, state.buffers, getattr(discriminator, "params", None)],
        "ema": state.ema,
        "optimizer": [
            state.optimizer_state,
            getattr(discriminator, "optimizer_state", None),
        ],
        "frozen": frozen,
        "batch": batch,
    }
    function = loop.jitted(run.guarded(program.step, config), state, mesh)
    return Program(name, mesh, function, (state, frozen, batch), kinds, config.global_batch_size)


def _stage1(config: Stage1Config) -> tuple[run.Program, PyTree]:
    compute = build.Compute.of(config)
    judge = config.gan.discriminator
    models = stage1.Models(
        shapes.encoder(config.autoencoder, compute),
        shapes.lpips(config.lpips, compute) if config.lpips.weight else None,
        shapes.discriminator_backbone(judge, compute) if config.gan.weight else None,
    )
    program = stage1.make_program(config, models, num_records=_IMAGENET)
    return program, _images(config)


def _stage2(config: Stage2Config) -> tuple[run.Program, PyTree]:
    compute = build.Compute.of(config)
    autoencoder = shapes.autoencoder(config.autoencoder, compute)
    shape = autoencoder.latent_shape(config.data.image_size)
    definition, frozen = split(autoencoder)
    batch = _images(config)
    if config.data.source == CACHED_LATENTS:
        # The kind of moments tells what lies on disk; images are in the way of their shape alone.
        moments = jax.eval_shape(
            lambda frozen, images, encoder=definition: latent_moments(
                encoder.merge(frozen), to_float(images)
            ),
            frozen,
            batch["images"],
        )
        stored = jnp.bfloat16
        batch = {**batch, "latents": _as(moments.mean, stored)}
        del batch["images"]
        if moments.deviation is not None:
            batch["deviations"] = _as(moments.deviation, stored)
        if not build.has_decoder(config.autoencoder):
            frozen = {}
        definition = None
    return stage2.make_program(config, shape, definition, frozen, num_records=_IMAGENET), batch


def sampling(
    config: SamplingConfig, stage2_config: Stage2Config, guide: Stage2Config | None, devices: Any
) -> Program:
    """The generator of a batch as `sampling.samples` compiles it.

    Args:
        config: Of the samples; its runs need not be there.
        stage2_config: Of the run in its `checkpoint`.
        guide: Of the run in its `guidance.checkpoint`, if it is guided by one.
        devices: To use.

    Raises:
        FileNotFoundError: The sizes of a model that the configuration names are not known.
        ValueError: Settings do not fit together or not on so many devices.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices)
    require_heads(stage2_config.denoiser, mesh)
    autoencoder = shapes.autoencoder(stage2_config.autoencoder, build.Compute.of(stage2_config))
    shape = autoencoder.latent_shape(stage2_config.data.image_size)
    definition, *weights = build.denoiser_shapes(stage2_config, shape)
    models, guide_definition = {"denoiser": tuple(weights)}, None
    if guide is not None:
        guide_definition, *guide_weights = build.denoiser_shapes(guide, shape)
        models["guide"] = tuple(guide_weights)
    transport = build.flow_matching(stage2_config.transport, shape)
    sampler = build.sampler(transport, shape, config.sampler, config.guidance)
    autoencoder_definition, frozen = split(autoencoder)
    generator = Generator(definition, autoencoder_definition, sampler, guide_definition)
    require_cut(models, mesh.shape)
    models = _placed(models, tree_shardings(models, mesh))
    frozen = _placed(frozen, frozen_shardings(frozen, mesh, config.mesh))
    key = _placed(jax.eval_shape(lambda: noise_key(0)), replicated(mesh))
    size = samples.whole_batch(config, mesh)
    rows = jax.ShapeDtypeStruct((size,), jnp.int32, sharding=batch_sharding(mesh))
    kinds = {"parameters": models, "frozen": frozen, "batch": rows}
    arguments = models, frozen, key, rows, rows
    return Program("sampling", mesh, samples.jitted(generator, mesh), arguments, kinds, size)


def _images(config: Stage1Config | Stage2Config) -> dict[str, jax.ShapeDtypeStruct]:
    count, side = config.global_batch_size, config.data.image_size
    return {
        "images": jax.ShapeDtypeStruct((count, side, side, 3), jnp.uint8),
        "labels": jax.ShapeDtypeStruct((count,), jnp.int32),
        "index": jax.ShapeDtypeStruct((count,), jnp.int32),
    }


def _as(leaf: Any, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, dtype)


def _placed(tree: PyTree, shardings: PyTree) -> PyTree:
    """The shapes of arrays, with where these lie."""
    if isinstance(shardings, jax.sharding.Sharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, tree)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )
