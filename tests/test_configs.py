"""Every file in configs/ loads, every value in it is legal, and its job takes a step."""

import dataclasses
import functools
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from rae_jax import build
from rae_jax.configuration import schema
from rae_jax.configuration.section import Section
from rae_jax.data.sources.base import record
from rae_jax.data.sources.image_folder import ImageFolder
from rae_jax.evaluation.features import PUBLISHED_FILE
from rae_jax.layers.functional import Buffer, abstract, freeze, split
from rae_jax.models.autoencoders.dc_config import RELEASED as RELEASED_DC
from rae_jax.models.autoencoders.kl_config import RELEASED as RELEASED_KL
from rae_jax.models.autoencoders.latent_normalization import (
    LatentNormalization,
    ScaledNormalization,
)
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.autoencoders.rae_config import RAEConfig
from rae_jax.models.auxiliary.dino_discriminator import DINO, DINO_SIZES
from rae_jax.models.auxiliary.lpips import LPIPS
from rae_jax.models.auxiliary.vgg import VGG16
from rae_jax.models.compute import Compute
from rae_jax.models.encoders.dinov2 import DINOv2Config, DINOv2Encoder
from rae_jax.models.encoders.mae import MAEConfig, MAEEncoder
from rae_jax.models.encoders.siglip2 import SigLIP2Config, SigLIP2Encoder
from rae_jax.ops.images import to_float
from rae_jax.sampling.generate import Generator
from rae_jax.sampling.labels import class_labels
from rae_jax.training import pretraining, stage1, stage2
from rae_jax.training.run import Job
from rae_jax.training.state import TrainState
from rae_jax.weights import autoencoder_dc, autoencoder_kl, auxiliary
from rae_jax.weights.autoencoders import Loading, empty_parts
from rae_jax.weights.families import AnyAutoencoder
from rae_jax.weights.pretrained import Preprocessing
from tests.comparison import GOLDEN

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").rglob("*.py"))


def load(path: pathlib.Path) -> ConfigDict:
    spec = importlib.util.spec_from_file_location("config_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def schema_of(config: ConfigDict) -> type[Section]:
    """The one configuration class that has exactly the keys of `config`."""
    classes = [
        cls
        for cls in vars(schema).values()
        if isinstance(cls, type)
        and issubclass(cls, Section)
        and {field.name for field in dataclasses.fields(cls)} == set(config)
    ]
    assert len(classes) == 1, f"{sorted(config)} are the keys of {classes}"
    return classes[0]


def parse(path: pathlib.Path) -> Section:
    config = load(path)
    return schema.parse(schema_of(config), config)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_config_is_legal_locked_and_documented(path):
    config = load(path)
    assert config.is_locked
    assert isinstance(parse(path), schema_of(config))
    assert load(path) == config


# One shape-only step of every config. What is not bundled is stood in for by its shapes: hub
# encoders of the published sizes, decoders and statistics of other runs, and ImageNet.

HUB = {
    "facebook/vit-mae-base": lambda **arguments: MAEEncoder(
        MAEConfig(
            hidden_size=768,
            depth=12,
            num_heads=12,
            intermediate_size=3072,
            patch_size=16,
            image_size=224,
        ),
        **arguments,
    ),
    "google/siglip2-base-patch16-256": lambda **arguments: SigLIP2Encoder(
        SigLIP2Config(image_size=256), **arguments
    ),
    **{
        f"facebook/dinov2-with-registers-{name}": functools.partial(
            DINOv2Encoder, DINOv2Config(hidden_size=width, depth=depth, num_heads=width // 64)
        )
        for name, width, depth in (("small", 384, 12), ("base", 768, 12), ("large", 1024, 24))
    },
}


PARAMETERS = {"stage2/dit_dh_xl_mae_base": 838.7e6}
"""Published counts, which include the fixed position table and frequencies."""


RELEASED = json.loads((GOLDEN / "diffusers_rae_full_keys" / "case.json").read_text())["config"]


def released(name: str, compute: Compute) -> AnyAutoencoder:
    """Shapes of a published autoencoder."""
    owner, name = name.split("/")
    if owner == "stabilityai":
        return autoencoder_kl.empty(RELEASED_KL[name], Loading(compute))
    if owner == "mit-han-lab":
        return autoencoder_dc.empty(RELEASED_DC[name.removesuffix("-diffusers")], Loading(compute))
    config = RAEConfig.read(RELEASED[name])
    parts = empty_parts(config, {}, Loading(compute))
    mean, std = np.zeros((2, *config.grid, config.encoder_hidden_size), np.float32)
    return AutoencoderRAE(
        parts.encoder,
        parts.decoder,
        encoder_input_size=config.encoder_input_size,
        image_mean=(0.485, 0.456, 0.406),
        image_std=(0.229, 0.224, 0.225),
        normalization=ScaledNormalization(mean, std),
    )


class ImageNet(ImageFolder):
    """Length and classes of the training images, and a picture for previews."""

    def __init__(self):
        self.classes = tuple(f"n{index:08d}" for index in range(1000))

    def __len__(self):
        return 1_281_167

    def __getitem__(self, index):
        return record(np.zeros((375, 500, 3), np.uint8), 0, index)

    def __repr__(self):
        return "ImageNet()"


def shapes_of(make):
    return lambda **arguments: abstract(lambda: make(**arguments))


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    load_encoder, source = build.load_encoder, build.source

    def hub_encoder(name, **arguments):
        if name not in HUB:
            return load_encoder(name, **arguments)
        module = abstract(lambda: HUB[name](**arguments, rngs=nnx.Rngs(0)))
        return module, Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def trained_autoencoder(config, compute):
        if config.pretrained:
            return freeze(released(config.pretrained, compute))
        loaded = build.encoder(config, compute)
        decoder = abstract(lambda: build.decoder(config, loaded, compute, rngs=nnx.Rngs(0)))
        shape = build.autoencoder(config, loaded, None).latent_shape(0)
        moments = LatentNormalization(np.zeros(shape, np.float32), np.ones(shape, np.float32))
        return freeze(build.autoencoder(config, loaded, decoder, moments))

    def lpips(path, *, dtype):
        assert path == "weights/lpips"
        return freeze(abstract(lambda: LPIPS(VGG16(dtype=dtype, rngs=nnx.Rngs(0)))))

    def backbone(path, **arguments):
        assert path == f"weights/{auxiliary.DINO_FILE}"
        return freeze(abstract(lambda: DINO(DINO_SIZES["S_8"], **arguments, rngs=nnx.Rngs(0))))

    def images(config):
        return source(config) if config.source == "digits" else ImageNet()

    monkeypatch.setattr(build, "load_encoder", hub_encoder)
    monkeypatch.setattr(auxiliary, "load_lpips", lpips)
    monkeypatch.setattr(auxiliary, "load_discriminator_backbone", backbone)
    for name in ("random_lpips", "random_discriminator_backbone"):
        monkeypatch.setattr(auxiliary, name, shapes_of(getattr(auxiliary, name)))
    monkeypatch.setattr(build, "pretrained_autoencoder", trained_autoencoder)
    monkeypatch.setattr(build, "source", images)


def shape_of_images(config: schema.DataConfig, count: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, config.image_size, config.image_size, 3), jnp.uint8)


def train_once(job: Job) -> TrainState:
    config = job.config
    labels = jax.ShapeDtypeStruct((config.global_batch_size,), jnp.int32)
    images = shape_of_images(config.data, config.global_batch_size)
    state = jax.eval_shape(job.initial_state)
    after, metrics = jax.eval_shape(
        job.step, state, job.frozen, {"images": images, "labels": labels}
    )
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert {"loss", "gradient_norm", "learning_rate"} <= metrics.keys()
    assert all(value.shape == () for value in metrics.values())
    # The durations of the config make sense together.
    assert build.durations(len(job.source), config.global_batch_size)(config.duration) > 0
    return state


def abstract_denoiser(stage2: schema.Stage2Config, shape: tuple[int, int, int]) -> tuple:
    module = abstract(
        lambda: build.denoiser(
            stage2.denoiser,
            shape,
            build.Compute.of(stage2),
            has_null_label=stage2.label_dropout > 0,
            rngs=nnx.Rngs(0),
        )
    )
    definition, *weights = split(module, nnx.Param, Buffer)
    return definition, tuple(weights)


def sample_once(config: schema.SamplingConfig, stage2: schema.Stage2Config) -> None:
    autoencoder = build.pretrained_autoencoder(stage2.autoencoder, build.Compute.of(stage2))
    shape = autoencoder.latent_shape(stage2.data.image_size)
    definition, weights = abstract_denoiser(stage2, shape)
    models, guide = {"denoiser": weights}, None
    if config.guidance.method == "autoguidance":
        guide, models["guide"] = abstract_denoiser(made_by(config.guidance.checkpoint), shape)
    transport = build.flow_matching(stage2.transport, shape)
    sampler = build.sampler(transport, shape, config.sampler, config.guidance)
    autoencoder_definition, frozen = split(autoencoder)
    index = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
    images = jax.eval_shape(
        Generator(definition, autoencoder_definition, sampler, guide),
        models,
        frozen,
        jax.eval_shape(jax.random.key, 0),
        index,
        index,
    )
    assert images == shape_of_images(stage2.data, config.batch_size)
    class_labels(config.labels, config.num_images, stage2.denoiser.num_classes, config.seed)


def encode_once(config: schema.AutoencoderConfig, data: schema.DataConfig, count: int) -> None:
    autoencoder = build.pretrained_autoencoder(config, build.Compute())
    definition, frozen = split(autoencoder)
    images = shape_of_images(data, count)
    latents = jax.eval_shape(
        lambda frozen, images: definition.merge(frozen).encode(to_float(images)), frozen, images
    )
    assert latents.shape == (count, *autoencoder.latent_shape(data.image_size))


def evaluate_once(config: Section) -> bool:
    """Whether `config` is of an evaluation, whose network and images are then looked at."""
    match config:
        case schema.PackingConfig():
            assert config.images.path
            return True
        case schema.GenerationEvaluationConfig() | schema.ReferenceStatisticsConfig():
            pass
        case schema.ReconstructionEvaluationConfig():
            if config.checkpoint:
                made = made_by(config.checkpoint)
                assert config.originals.data.image_size == made.data.image_size
        case _:
            return False
    if config.extractor.kind == "inception":
        assert config.extractor.weights == PUBLISHED_FILE
    else:
        build.encoder(schema.AutoencoderConfig(encoder=config.extractor.encoder), build.Compute())
    return True


def made_by(checkpoint: str) -> Section:
    """Config of the run in `checkpoint`, whose folder has the name of its config."""
    name = pathlib.Path(checkpoint).name
    named = [path for path in FILES if path.stem == name]
    assert len(named) == 1, f"{checkpoint} should be called after one of {FILES}"
    return parse(named[0])


def step_once(config: Section) -> TrainState | None:
    """Goes through one step of the job that `config` is for; training gives its state."""
    match config:
        case schema.Stage1Config():
            return train_once(stage1.make_job(config))
        case schema.Stage2Config():
            return train_once(stage2.make_job(config))
        case schema.PretrainingConfig():
            return train_once(pretraining.make_job(config))
        case schema.StatisticsConfig() | schema.LatentCacheConfig():
            encode_once(config.autoencoder, config.data, config.batch_size)
        case schema.ReconstructionConfig():
            trained = made_by(config.checkpoint)
            encode_once(trained.autoencoder, trained.data, config.batch_size)
        case schema.SamplingConfig():
            sample_once(config, made_by(config.checkpoint))
        case schema.DemoConfig():
            for part in (config.stage1, config.statistics, config.stage2):
                step_once(part)
            for part in (config.sampling, config.guided):
                sample_once(part, config.stage2)
        case _:
            known = evaluate_once(config)
            assert known, f"nothing is known of {type(config).__name__}: add its step here"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_config_takes_a_step(path):
    state = step_once(parse(path))
    name = str(path.relative_to(ROOT / "configs").with_suffix(""))
    if name in PARAMETERS:
        assert state is not None
        count = sum(leaf.size for leaf in jax.tree.leaves([state.params, state.buffers]))
        assert count == pytest.approx(PARAMETERS[name], rel=1e-4)


def test_every_config_is_in_the_table():
    table = (ROOT / "configs" / "README.md").read_text()
    missing = [str(path.relative_to(ROOT / "configs")) for path in FILES]
    assert [name for name in missing if f"| `{name}` |" not in table] == []
