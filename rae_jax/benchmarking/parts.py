"""The parts of a benchmark as this package computes them, at full size with made-up weights."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax import build
from rae_jax.benchmarking import filling
from rae_jax.benchmarking.presets import (
    GUIDANCE_SCALE,
    IMAGE_MEAN,
    IMAGE_STD,
    NORMALIZED_VARIANCE,
    NUM_CLASSES,
    Settings,
)
from rae_jax.benchmarking.products import Products
from rae_jax.benchmarking.profiling import costs
from rae_jax.benchmarking.sides import Prepared
from rae_jax.configuration.denoising import DiTDHConfig
from rae_jax.configuration.parts import AutoencoderConfig, DataConfig, EncoderConfig
from rae_jax.configuration.reconstruction import DiscriminatorConfig, GANConfig
from rae_jax.configuration.schema import (
    GuidanceConfig,
    SamplerConfig,
    Stage1Config,
    Stage2Config,
)
from rae_jax.host_memory import keep_freed_memory
from rae_jax.layers.functional import Buffer, abstract, freeze, split
from rae_jax.models.autoencoders.latent_normalization import LatentNormalization
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.auxiliary.dino_discriminator import DINO, DINOConfig
from rae_jax.models.auxiliary.inception import Inception
from rae_jax.models.auxiliary.lpips import LPIPS
from rae_jax.models.auxiliary.vgg import VGG16
from rae_jax.models.compute import Compute
from rae_jax.models.decoders.vit_decoder import DecoderConfig, ViTDecoder
from rae_jax.models.denoisers.base import TransformerDenoiser
from rae_jax.models.encoders.dinov2 import DINOv2Config, DINOv2Encoder
from rae_jax.sampling.generate import Generator
from rae_jax.training import stage1, stage2
from rae_jax.training.run import Program
from rae_jax.training.state import TrainState
from rae_jax.typing import Array, Tree
from rae_jax.weights import convert
from rae_jax.weights.pretrained import Preprocessing
from rae_jax.weights.table import WeightTable
from rae_jax.weights.tables.dino_discriminator import dino_table
from rae_jax.weights.tables.dinov2 import dinov2_table
from rae_jax.weights.tables.dit_dh import dit_dh_table
from rae_jax.weights.tables.inception import inception_table
from rae_jax.weights.tables.lpips import LPIPS_TABLE
from rae_jax.weights.tables.vit_decoder import VIT_DECODER

VERSION = f"rae_jax, jax {jax.__version__}"
"""What this side is."""

begin = keep_freed_memory
"""Comes first in the process of this side, as in the tools."""

IMAGENET = 1_281_167
"""Images in an epoch, which only turns durations into steps."""


class _Entries(Mapping[str, np.ndarray]):
    """The entries of a published file, each made when it is read."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        self._shapes = shapes

    def __getitem__(self, name: str) -> np.ndarray:
        return filling.weight(name, self._shapes[name])

    def __iter__(self) -> Any:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _filled(table: Callable[[Any], WeightTable], make: Callable[[], Any]) -> Any:
    module = abstract(make)
    rows = table(module)
    return convert.load(rows, _Entries(convert.entry_shapes(rows, module)), module)


def _encoder(settings: Settings) -> DINOv2Encoder:
    content = {**settings.sizes.encoder, "model_type": "dinov2_with_registers"}
    config = DINOv2Config.from_hugging_face(content)
    return _filled(
        lambda _: dinov2_table(config, style="transformers5"),
        lambda: DINOv2Encoder(config, **_compute(settings).arguments, rngs=nnx.Rngs(0)),
    )


def _decoder(settings: Settings) -> ViTDecoder:
    sizes = settings.sizes
    config = DecoderConfig(
        **dataclasses.asdict(sizes.decoder),
        latent_channels=sizes.latent_shape[2],
        grid=(sizes.grid, sizes.grid),
    )
    return _filled(
        lambda _: VIT_DECODER,
        lambda: ViTDecoder(config, **_compute(settings).arguments, rngs=nnx.Rngs(0)),
    )


def _autoencoder(settings: Settings, *, decodes: bool) -> AutoencoderRAE:
    """All frozen; only one that decodes has a decoder."""
    shape = settings.sizes.latent_shape
    moments = np.zeros(shape, np.float32), np.full(shape, NORMALIZED_VARIANCE, np.float32)
    autoencoder = AutoencoderRAE(
        _encoder(settings),
        _decoder(settings) if decodes else None,
        encoder_input_size=settings.sizes.encoder_input,
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
        normalization=LatentNormalization(*moments, epsilon=0.0),
    )
    return freeze(autoencoder)


def _denoiser(settings: Settings, config: DiTDHConfig) -> TransformerDenoiser:
    return _filled(
        lambda module: dit_dh_table(module.config),
        lambda: build.denoiser(
            config,
            settings.sizes.latent_shape,
            _compute(settings),
            has_null_label=True,
            rngs=nnx.Rngs(0),
        ),
    )


def _compute(settings: Settings) -> Compute:
    return Compute(dtype=settings.dtype)


def _prepared(
    function: Callable[..., Any],
    *arguments: Any,
    answer: Callable[[Any], Any] | None = None,
    donated: tuple[int, ...] = (),
) -> Prepared:
    """Compiles `function` for its arguments.

    Args:
        function: Pure.
        *arguments: Arrays.
        answer: Picks from the result what all sides have alike.
        donated: Arguments whose place the first results take, run by run.
    """
    products = Products(function, *arguments)
    start = time.perf_counter()
    compiled = jax.jit(function, donate_argnums=donated).lower(*arguments).compile()
    facts = {"compile_seconds": time.perf_counter() - start, "operations": products.operations}
    memory = compiled.memory_analysis()
    if memory is not None:
        facts["temporary_bytes"] = float(memory.temp_size_in_bytes)
    if jax.default_backend() == "gpu":
        # In a loop over layers a call counts once.
        calls = (compiled.as_text() or "").count('custom_call_target="__cudnn$fmha')
        facts["flash_attention_calls"] = float(calls)
    given = list(arguments)

    def run() -> Any:
        result = jax.block_until_ready(compiled(*given))
        if donated:
            given[donated[0]] = result[0]
        return result

    return Prepared(
        run,
        None if answer is None else lambda result: np.asarray(answer(result), np.float32),
        facts,
        products.seconds,
        lambda folder: costs(run, folder),
        _peak if jax.default_backend() != "cpu" else None,
    )


def _peak() -> int:
    return sum(d.memory_stats()["peak_bytes_in_use"] for d in jax.local_devices())


def _encode(settings: Settings) -> Prepared:
    definition, frozen = split(_autoencoder(settings, decodes=False))
    images = jnp.asarray(filling.images(settings.batch_size, settings.sizes.image_size))
    return _prepared(
        lambda frozen, images: definition.merge(frozen).encode(images),
        frozen,
        images,
        answer=_itself,
    )


def _decode(settings: Settings) -> Prepared:
    definition, frozen = split(_autoencoder(settings, decodes=True))
    latents = jnp.asarray(filling.latents(settings.batch_size, settings.sizes.latent_shape))
    return _prepared(
        lambda frozen, latents: definition.merge(frozen).decode(latents),
        frozen,
        latents,
        answer=_itself,
    )


def _denoise(settings: Settings) -> Prepared:
    definition, weights = split(_denoiser(settings, settings.sizes.denoiser))
    count, shape = settings.batch_size, settings.sizes.latent_shape
    return _prepared(
        lambda weights, *inputs: definition.merge(weights)(*inputs).prediction,
        weights,
        jnp.asarray(filling.latents(count, shape)),
        jnp.asarray(filling.times(count)),
        jnp.asarray(filling.labels(count, NUM_CLASSES)),
        answer=_itself,
    )


def _train_stage2(settings: Settings) -> Prepared:
    count, sizes = settings.batch_size, settings.sizes
    program = stage2.make_program(
        stage2_config(settings, sizes.trained_denoiser),
        sizes.latent_shape,
        None,
        {},
        num_records=IMAGENET,
    )
    denoiser = _denoiser(settings, sizes.trained_denoiser)
    _, params, buffers = split(denoiser, nnx.Param, Buffer)
    key = jax.random.key(0)
    state = jax.jit(
        lambda params, buffers: TrainState.create(params, buffers, program.step.optimizer, key)
    )(params, buffers)
    batch = {
        "latents": jnp.asarray(filling.latents(count, sizes.latent_shape)),
        "labels": jnp.asarray(filling.labels(count, NUM_CLASSES)),
    }
    del denoiser, params
    return _prepared(program.step, state, program.frozen, batch, donated=(0,))


def stage1_program(settings: Settings) -> tuple[Stage1Config, Program]:
    """The published recipe for the trained decoder, with every loss on from the first step."""
    sizes, compute = settings.sizes, _compute(settings)
    config = Stage1Config(
        autoencoder=AutoencoderConfig(
            encoder=EncoderConfig(input_size=sizes.encoder_input), decoder=sizes.trained_decoder
        ),
        data=DataConfig(image_size=sizes.image_size, resize_size=sizes.image_size),
        global_batch_size=settings.batch_size,
        gan=GANConfig(
            start="0 steps",
            discriminator_start="0 steps",
            discriminator=DiscriminatorConfig(key_depths=sizes.key_depths),
        ),
        dtype=settings.dtype,  # pyright: ignore[reportArgumentType]
    )
    encoder, preprocessing = _encoder(settings), Preprocessing(IMAGE_MEAN, IMAGE_STD)
    judge = DINOConfig(**sizes.discriminator)
    models = stage1.Models(
        build.frozen_encoder(config.autoencoder, encoder, preprocessing),
        freeze(
            _filled(
                lambda _: LPIPS_TABLE,
                lambda: LPIPS(VGG16(dtype=compute.dtype, rngs=nnx.Rngs(0))),
            )
        ),
        freeze(
            _filled(
                lambda _: dino_table(judge.patch_size),
                lambda: DINO(judge, **compute.arguments, rngs=nnx.Rngs(0)),
            )
        ),
    )
    return config, stage1.make_program(config, models, num_records=IMAGENET)


def _train_stage1(settings: Settings) -> Prepared:
    _, program = stage1_program(settings)
    state = jax.jit(program.initial_state)()
    batch = {"images": jnp.asarray(_pixels(settings))}
    return _prepared(program.step, state, program.frozen, batch, donated=(0,))


def _pixels(settings: Settings) -> np.ndarray:
    """Images as files have them, uint8."""
    images = filling.images(settings.batch_size, settings.sizes.image_size)
    return np.rint(255 * images.clip(0, 1)).astype(np.uint8)


def stage2_config(settings: Settings, denoiser: DiTDHConfig) -> Stage2Config:
    """The published recipe for a denoiser."""
    return Stage2Config(
        denoiser=denoiser,
        global_batch_size=settings.batch_size,
        dtype=settings.dtype,  # pyright: ignore[reportArgumentType]
    )


def _sample(settings: Settings) -> Prepared:
    sizes = settings.sizes
    transport = build.flow_matching(Stage2Config().transport, sizes.latent_shape)
    sampler = build.sampler(
        transport,
        sizes.latent_shape,
        SamplerConfig(num_steps=settings.points),
        GuidanceConfig(method="autoguidance", scale=GUIDANCE_SCALE, checkpoint="given"),
    )
    definitions, weights = {}, {}
    for name, config in (("denoiser", sizes.denoiser), ("guide", sizes.guide)):
        definitions[name], *parts = split(_denoiser(settings, config), nnx.Param, Buffer)
        weights[name] = tuple(parts)
    autoencoder, frozen = split(_autoencoder(settings, decodes=True))
    generator = Generator(definitions["denoiser"], autoencoder, sampler, definitions["guide"])
    index = jnp.arange(settings.batch_size, dtype=jnp.int32)
    labels = jnp.asarray(filling.labels(settings.batch_size, NUM_CLASSES))
    return _prepared(generator, weights, frozen, jax.random.key(0), index, labels)


def _evaluate(settings: Settings) -> Prepared:
    definition, arrays = split(_filled(lambda _: inception_table(), Inception))

    def features(arrays: Tree, images: Array) -> tuple[Array, ...]:
        found = definition.merge(arrays)(images)
        return found.pool_3, found.spatial, found.unbiased_logits

    return _prepared(
        features,
        arrays,
        jnp.asarray(_pixels(settings)),
        answer=lambda found: found[0],
    )


def _itself(result: Array) -> Array:
    return result


PARTS: Mapping[str, Callable[[Settings], Prepared]] = {
    "encode": _encode,
    "decode": _decode,
    "denoise": _denoise,
    "train-stage1": _train_stage1,
    "train-stage2": _train_stage2,
    "sample": _sample,
    "evaluate": _evaluate,
}
"""What this side can do."""
