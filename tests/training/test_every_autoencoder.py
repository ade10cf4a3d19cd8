"""One and the same stage 2 on the latents of every autoencoder, cached or not."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from rae_jax import build
from rae_jax.configuration.schema import (
    AutoencoderConfig,
    DataConfig,
    ImagesConfig,
    LatentCacheConfig,
    LightningDiTConfig,
    ReconstructionConfig,
    ReconstructionEvaluationConfig,
    SamplingConfig,
    Stage2Config,
)
from rae_jax.data.sources.image_folder import read_image
from rae_jax.evaluation import reconstruction
from rae_jax.layers.functional import split
from rae_jax.models.autoencoders.base import Autoencoder, VariationalAutoencoder, latent_moments
from rae_jax.pretrained import save_autoencoder
from rae_jax.sampling.reconstruct import reconstruct_files
from rae_jax.sampling.samples import make_samples
from rae_jax.training import latent_cache, stage2
from tests import pipeline
from tests.comparison import load_case
from tests.models.autoencoders import dc, diffusers, kl

MAKERS = {
    "AutoencoderRAE": (
        lambda: diffusers.autoencoder_of(load_case("diffusers_rae_tiny_dinov2")),
        16,
    ),
    "AutoencoderKL": (lambda: kl.autoencoder_of(load_case("autoencoder_kl_tiny")), 16),
    "AutoencoderDC": (lambda: dc.autoencoder_of(load_case("autoencoder_dc_tiny")), 32),
}
"""By class: a tiny one, and the side of images for it."""

SHAPES = {
    "AutoencoderRAE": (4, 4, 128),
    "AutoencoderKL": (8, 8, 4),
    "AutoencoderDC": (8, 8, 8),
}


@pytest.fixture(scope="module", params=MAKERS)
def published(request, tmp_path_factory):
    """Class, folder in the format of diffusers, and side of images."""
    make, side = MAKERS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    save_autoencoder(folder, make())
    return request.param, folder, side


def data_of(side):
    return DataConfig(source="digits", image_size=side, crop="none", horizontal_flip=True)


def stage2_of(folder, side):
    """A few steps of a tiny denoiser."""
    denoiser = LightningDiTConfig(
        hidden_size=16, depth=1, num_heads=2, num_classes=10, patch_size=2
    )
    return Stage2Config(
        autoencoder=AutoencoderConfig(pretrained=str(folder)),
        data=data_of(side),
        denoiser=denoiser,
        global_batch_size=8,
        duration="2 steps",
        loop=dataclasses.replace(pipeline.LOOP, preview_every="2 steps"),
    )


def losses(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_a_config_line_names_any_of_them(published):
    name, folder, side = published
    config = AutoencoderConfig(pretrained=str(folder))
    autoencoder = build.pretrained_autoencoder(config, build.Compute())
    assert type(autoencoder).__name__ == name
    assert isinstance(autoencoder, Autoencoder)
    assert build.has_decoder(config)
    shape = autoencoder.latent_shape(side)
    assert shape == SHAPES[name]
    definition, arrays = split(autoencoder)
    images = jax.ShapeDtypeStruct((2, side, side, 3), np.float32)

    def there_and_back(arrays, images):
        merged = definition.merge(arrays)
        moments = latent_moments(merged, images)
        latents = moments.draw(jax.random.key(0), jax.numpy.arange(2))
        return moments, latents, merged.encode(images), merged.decode(latents)

    moments, *latents, back = jax.eval_shape(there_and_back, arrays, images)
    assert all(values.shape == (2, *shape) for values in latents)
    assert back.shape == images.shape
    assert (moments.deviation is not None) == isinstance(autoencoder, VariationalAutoencoder)


def test_the_time_shift_follows_the_latents(published):
    name, folder, side = published
    config = stage2_of(folder, side)
    transport = build.flow_matching(config.transport, SHAPES[name])
    assert transport.times.shift == pytest.approx((np.prod(SHAPES[name]) / 4096) ** 0.5)


@pytest.mark.slow
def test_a_run_samples_and_latents_on_disk(published, tmp_path):
    _, folder, side = published
    config = stage2_of(folder, side)
    stage2.train(config, tmp_path / "run")
    assert np.isfinite(losses(tmp_path / "run")).all()
    assert any((tmp_path / "run").rglob("*.png"))
    sampler = dataclasses.replace(SamplingConfig().sampler, num_steps=3)
    sampling = SamplingConfig(
        checkpoint=str(tmp_path / "run"), num_images=8, batch_size=8, sampler=sampler
    )
    with np.load(make_samples(sampling, tmp_path / "samples")) as samples:
        assert samples["arr_0"].shape == (8, side, side, 3)
    cache = LatentCacheConfig(
        autoencoder=config.autoencoder,
        data=config.data,
        batch_size=16,
        stored_dtype="float32",
        images_per_shard=1000,
    )
    cached = latent_cache.cache_latents(cache, tmp_path / "cached")
    data = dataclasses.replace(config.data, source="cached_latents", path=str(cached))
    stage2.train(dataclasses.replace(config, data=data), tmp_path / "second")
    np.testing.assert_allclose(losses(tmp_path / "second"), losses(tmp_path / "run"), rtol=1e-5)


@pytest.mark.slow
def test_reconstructions_and_their_scores(published, tmp_path):
    _, folder, side = published
    generator = np.random.default_rng(0)
    for number in range(2):
        pixels = generator.integers(0, 256, (side + 9, side + 30, 3), np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    config = ReconstructionConfig(
        checkpoint=str(folder), input=str(tmp_path / "images"), image_size=side
    )
    made = reconstruct_files(config, tmp_path / "made")
    assert read_image(made / "1.png").shape == (side, side, 3)
    images = dataclasses.replace(
        data_of(side),
        source="image_folder",
        path=str(tmp_path),
        split="images",
        crop="center",
        horizontal_flip=False,
    )
    scores = reconstruction.evaluate(
        ReconstructionEvaluationConfig(
            originals=ImagesConfig(data=images), checkpoint=str(folder), metrics=("psnr",)
        ),
        tmp_path / "scores",
    ).scores
    assert 5 < scores["psnr"] < 60
