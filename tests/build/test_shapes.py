import json

import jax
import pytest

from rae_jax import build
from rae_jax.build import shapes
from rae_jax.configuration.schema import AutoencoderConfig, EncoderConfig
from rae_jax.layers.functional import split
from rae_jax.models.autoencoders.rae_config import RAEConfig
from rae_jax.weights import published, published_sizes
from tests.comparison import GOLDEN


def shape_of(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def test_shapes_are_those_of_the_loaded_encoder():
    config = AutoencoderConfig(encoder=EncoderConfig(path="builtin:digits_mae", input_size=48))
    compute = build.Compute()
    expected, loaded = split(build.encoder(config, compute).module)
    definition, found = split(shapes.encoder(config, compute).module)
    assert shape_of(found) == shape_of(loaded)
    assert definition.graphdef == expected.graphdef
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(found))


def test_all_that_is_published_has_sizes():
    assert published_sizes.ENCODERS.keys() == set(published.ENCODERS)
    assert published_sizes.AUTOENCODERS.keys() == set(published.AUTOENCODERS)


def test_sizes_of_published_raes():
    files = json.loads((GOLDEN / "diffusers_rae_full_keys" / "case.json").read_text())["config"]
    for name, content in files.items():
        assert published_sizes.AUTOENCODERS[f"nyu-visionx/{name}"] == RAEConfig.read(content)


def test_unknown_names_are_refused_with_the_nearest():
    config = AutoencoderConfig(encoder=EncoderConfig(path="facebook/dinov2-bose"))
    with pytest.raises(FileNotFoundError, match=r"mean 'facebook/dinov2-base'"):
        shapes.encoder(config, build.Compute())
    with pytest.raises(FileNotFoundError, match=r"autoencoder\.pretrained"):
        shapes.autoencoder(AutoencoderConfig(pretrained="nobody/nothing"), build.Compute())
