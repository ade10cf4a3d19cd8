"""Runs and the files they stand on: what is noted, what is compared, what is refused."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rae_jax import build
from rae_jax.configuration import schema
from rae_jax.configuration.schema import ConfigError, DataConfig
from rae_jax.models.encoders.mae import MAEEncoder
from rae_jax.training import stage1, stage2
from rae_jax.weights.pretrained import load_encoder, save_encoder
from tests import pipeline


@pytest.fixture(scope="module")
def other_encoder(tmp_path_factory):
    """The bundled encoder with one parameter changed."""
    folder = tmp_path_factory.mktemp("other") / "encoder"
    encoder, preprocessing = load_encoder("builtin:digits_mae", dtype=jnp.float32)
    assert isinstance(encoder, MAEEncoder)
    encoder.class_token[...] = encoder.class_token[...] + 1
    save_encoder(folder, encoder, preprocessing)
    return str(folder)


def with_encoder(config, path):
    section = config.autoencoder
    encoder = dataclasses.replace(section.encoder, path=path)
    return dataclasses.replace(config, autoencoder=dataclasses.replace(section, encoder=encoder))


def test_previews_of_randomly_cropped_images_are_cropped_in_the_middle(tmp_path):
    image = Image.fromarray(np.zeros((60, 80, 3), np.uint8))
    (tmp_path / "train" / "a").mkdir(parents=True)
    image.save(tmp_path / "train" / "a" / "one.png")
    data = DataConfig(
        path=str(tmp_path), image_size=48, resize_size=56, horizontal_flip=True, num_threads=0
    )
    assert stage1.make_job(pipeline.stage1(data=data)).preview is not None


def test_a_decoder_of_another_architecture_is_refused_even_if_its_arrays_fit(runs):
    config = pipeline.stage2(runs)
    decoder = dataclasses.replace(config.autoencoder.decoder, num_heads=4)
    section = dataclasses.replace(config.autoencoder, decoder=decoder)
    with pytest.raises(ValueError, match="autoencoder.decoder must be that of the stage-1 run"):
        stage2.make_job(dataclasses.replace(config, autoencoder=section))


def test_a_decoder_of_another_encoder_is_refused(runs, other_encoder):
    config = with_encoder(pipeline.stage2(runs), other_encoder)
    section = dataclasses.replace(config.autoencoder, statistics="")
    with pytest.raises(ValueError, match="was trained on another encoder than"):
        stage2.make_job(dataclasses.replace(config, autoencoder=section))


def test_statistics_of_another_encoder_are_refused(runs, other_encoder):
    with pytest.raises(ValueError, match="holds the statistics of another encoder than"):
        stage2.make_job(with_encoder(pipeline.stage2(runs), other_encoder))


def test_a_run_whose_encoder_has_changed_does_not_go_on(runs, other_encoder, tmp_path):
    shutil.copytree(runs / "stage1", tmp_path / "stage1")
    config = with_encoder(pipeline.stage1(steps=6), other_encoder)
    note = tmp_path / "stage1" / "config.json"
    content = json.loads(note.read_text())
    content["config"]["autoencoder"]["encoder"]["path"] = other_encoder
    note.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="trained with other inputs: the frozen models"):
        stage1.train(config, tmp_path / "stage1")


def test_without_label_dropout_there_is_no_null_label(runs):
    config = pipeline.stage2(runs, label_dropout=0.0)
    state = stage2.make_job(config).initial_state()
    assert state.params["label_embedding"]["table"].shape[0] == config.denoiser.num_classes


@pytest.mark.parametrize(
    "cls, values, message",
    [
        (schema.SamplingConfig, {"guidance": {"scale": 3.0}}, "must be 1.0 for method 'none'"),
        (schema.Stage1Config, {"data": {"source": "digits", "path": "photos"}}, "data.path must"),
        (schema.Stage1Config, {"autoencoder": {"checkpoint": "runs/a"}}, "checkpoint must be ''"),
        (schema.StatisticsConfig, {"autoencoder": {"statistics": "a"}}, "statistics must be ''"),
    ],
)
def test_settings_that_nothing_would_read_are_errors(cls, values, message):
    with pytest.raises(ConfigError, match=message):
        schema.parse(cls, values)


def test_the_fingerprint_of_an_encoder_sees_its_parameters(other_encoder):
    section = pipeline.stage1().autoencoder
    ours = build.encoder(section, build.Compute())
    other = dataclasses.replace(section.encoder, path=other_encoder)
    theirs = build.encoder(dataclasses.replace(section, encoder=other), build.Compute())
    assert build.encoder_fingerprint(ours) != build.encoder_fingerprint(theirs)
    again = build.encoder(section, build.Compute())
    assert build.encoder_fingerprint(ours) == build.encoder_fingerprint(again)
