"""Every file in configs/ loads, every value in it is legal, and its job takes a step."""

import dataclasses
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rae_jax import build
from rae_jax.build import judging, shapes
from rae_jax.configuration import schema
from rae_jax.configuration.reconstruction import RANDOM_FEATURES
from rae_jax.configuration.section import Section
from rae_jax.data.sources.base import record
from rae_jax.data.sources.image_folder import ImageFolder
from rae_jax.evaluation.features import PUBLISHED_FILE
from rae_jax.layers.functional import split
from rae_jax.ops.images import to_float
from rae_jax.sampling.generate import Generator
from rae_jax.sampling.labels import class_labels
from rae_jax.training import pretraining, stage1, stage2
from rae_jax.training.run import Job
from rae_jax.training.state import TrainState
from rae_jax.weights import auxiliary

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


# One shape-only step of every config. What is not bundled is stood in for by its shapes: published
# models, decoders and statistics of other runs, and ImageNet.

PARAMETERS = {"stage2/dit_dh_xl_mae_base": 838.7e6}
"""Published counts, which include the fixed position table and frequencies."""


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


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    source = build.source

    def lpips(config, compute):
        assert config.path in ("weights/lpips", RANDOM_FEATURES)
        return shapes.lpips(config, compute)

    def backbone(config, compute):
        assert config.path in (f"weights/{auxiliary.DINO_FILE}", RANDOM_FEATURES)
        return shapes.discriminator_backbone(config, compute)

    def images(config):
        return source(config) if config.source == "digits" else ImageNet()

    monkeypatch.setattr(build, "encoder", shapes.encoder)
    monkeypatch.setattr(build, "pretrained_autoencoder", shapes.autoencoder)
    monkeypatch.setattr(judging, "lpips", lpips)
    monkeypatch.setattr(judging, "discriminator_backbone", backbone)
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


def sample_once(config: schema.SamplingConfig, stage2: schema.Stage2Config) -> None:
    autoencoder = build.pretrained_autoencoder(stage2.autoencoder, build.Compute.of(stage2))
    shape = autoencoder.latent_shape(stage2.data.image_size)
    definition, *weights = build.denoiser_shapes(stage2, shape)
    models, guide = {"denoiser": tuple(weights)}, None
    if config.guidance.method == "autoguidance":
        guide, *weights = build.denoiser_shapes(made_by(config.guidance.checkpoint), shape)
        models["guide"] = tuple(weights)
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


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.parent.name == "smoke" else pytest.mark.long)
        for path in FILES
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
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
