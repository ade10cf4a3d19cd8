"""Cached latents from images to batches: whatever devices, flips and interruptions."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rae_jax import build
from rae_jax.checkpointing.claim import claimed
from rae_jax.checkpointing.experiment import checkpoint_folder
from rae_jax.checkpointing.partial_restore import read_metadata
from rae_jax.configuration.errors import ConfigError
from rae_jax.configuration.schema import DataConfig, LatentCacheConfig, Stage2Config
from rae_jax.data.latents import read_latent_manifest
from rae_jax.data.sources.cached_latents import CachedLatents
from rae_jax.layers.functional import split
from rae_jax.models.autoencoders.base import LatentMoments
from rae_jax.ops.images import to_float
from rae_jax.training import latent_cache, stage2
from tests import pipeline
from tests.training import few_digits
from tests.training.few_digits import FewDigits

COUNT, SHARD = 20, 8
SHAPE = (3, 3, 64)
AUTOENCODER = dataclasses.replace(pipeline.stage1().autoencoder, noise_tau=0.8)
DATA = DataConfig(source="digits", image_size=48, crop="none", horizontal_flip=True, num_threads=0)


@pytest.fixture
def few(monkeypatch):
    return few_digits.in_place_of_all(monkeypatch, COUNT)


def config(**changes):
    settings = {
        "autoencoder": AUTOENCODER,
        "data": DATA,
        "batch_size": 3,
        "stored_dtype": "float32",
        "images_per_shard": SHARD,
    }
    return LatentCacheConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A finished folder, made by two devices; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "source", lambda config: FewDigits(COUNT))
        patch.setattr(jax, "local_devices", lambda: jax.devices()[:2])
        return latent_cache.cache_latents(config(), tmp_path_factory.mktemp("cached"))


@functools.cache
def encoder():
    definition, arrays = split(build.pretrained_autoencoder(AUTOENCODER, build.Compute()))
    return jax.jit(lambda images: definition.merge(arrays).encode(to_float(images)))


def encode(images):
    """Latents of any images, eight at a time."""
    size = 8
    padded = np.pad(images, ((0, -len(images) % size), (0, 0), (0, 0), (0, 0)))
    parts = [encoder()(jnp.asarray(padded[i : i + size])) for i in range(0, len(images), size)]
    return np.concatenate(parts)[: len(images)]


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.array_record"))}


def assert_same_files(folder, other):
    assert files(folder) == files(other)
    assert read_latent_manifest(folder) == read_latent_manifest(other)


def test_latents_are_those_of_the_images_and_of_their_mirror_images(cached):
    source, digits = CachedLatents(cached), FewDigits(COUNT)
    assert (len(source), source.classes) == (COUNT, digits.classes)
    assert [shard.records for shard in source.manifest.shards] == [16, 16, 8]
    images = np.stack([digits[index]["image"] for index in range(COUNT)])
    for mirrored, pixels in ((False, images), (True, images[:, :, ::-1])):
        records = [source.read(index, mirrored) for index in range(COUNT)]
        latents = np.stack([record["latent"] for record in records])
        assert latents.dtype == np.float32
        np.testing.assert_allclose(latents, encode(pixels), rtol=0, atol=2e-5)
        for index, record in enumerate(records):
            assert set(record) == {"latent", "label", "index"}
            assert record["label"] == digits[index]["label"]
            assert record["index"] == index


@pytest.mark.parametrize("flip", [True, False])
def test_batches_are_those_of_the_images(cached, flip):
    data = dataclasses.replace(DATA, horizontal_flip=flip)
    stored = dataclasses.replace(data, source="cached_latents", path=str(cached))
    sources = (FewDigits(COUNT), data), (build.cached_latents(stored), stored)
    # Batches straddle epochs: the choice is by epoch too.
    streams = [
        build.batches(source, settings, seed=3, global_batch_size=8, start_step=1)
        for source, settings in sources
    ]
    for _ in range(6):
        images, latents = (next(stream) for stream in streams)
        assert set(latents) == {"latents", "labels", "index"}
        for name in ("labels", "index"):
            np.testing.assert_array_equal(latents[name], images[name])
            assert latents[name].dtype == images[name].dtype
        np.testing.assert_allclose(latents["latents"], encode(images["images"]), rtol=0, atol=2e-5)


def test_bfloat16_rounds_to_nearest(cached, few, tmp_path):
    folder = latent_cache.cache_latents(config(stored_dtype="bfloat16"), tmp_path)
    rounded, exact = CachedLatents(folder), CachedLatents(cached)
    for mirrored in (False, True):
        latent = rounded.read(5, mirrored)["latent"]
        assert latent.dtype == ml_dtypes.bfloat16
        nearest = exact.read(5, mirrored)["latent"].astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(latent, nearest)


def test_neither_devices_nor_interruptions_change_a_bit(cached, few, monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    few(fail_at=13)
    with pytest.raises(OSError, match="the disk is gone"):
        latent_cache.cache_latents(config(), tmp_path)
    assert list(files(tmp_path)) == ["latents-00000-of-00003.array_record"]
    with pytest.raises(FileNotFoundError, match=r"cache latents with .*, or let it finish"):
        CachedLatents(tmp_path)
    # As a kill may leave them: a shard without its note, and one half written.
    (tmp_path / "latents-00001-of-00003.array_record").write_bytes(b"some")
    (tmp_path / "latents-00002-of-00003.array_record.77.partial").write_bytes(b"some")
    asked = few()
    latent_cache.cache_latents(config(), tmp_path)
    assert set(asked) == set(range(8, 20))
    assert_same_files(tmp_path, cached)
    assert not list(tmp_path.glob("*.partial"))


def test_a_finished_folder_is_verified_and_what_is_damaged_made_anew(
    cached, few, monkeypatch, tmp_path
):
    folder = tmp_path / "cached"
    shutil.copytree(cached, folder)
    with monkeypatch.context() as patch:
        patch.setattr(build, "pretrained_autoencoder", None)
        assert latent_cache.cache_latents(config(), folder) == folder
    path = folder / "latents-00001-of-00003.array_record"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    asked = few()
    latent_cache.cache_latents(config(), folder)
    assert set(asked) == set(range(8, 16))
    assert_same_files(folder, cached)


def test_a_damaged_record_is_named_and_a_shard_of_another_size_refused(cached, tmp_path):
    folder = tmp_path / "cached"
    shutil.copytree(cached, folder)
    path = folder / "latents-00001-of-00003.array_record"
    content = path.read_bytes()
    path.write_bytes(content[:16000] + bytes(4096) + content[20096:])
    source = CachedLatents(folder)
    with pytest.raises(ValueError, match=r"cannot read record \d+ of .*00001-of-00003"):
        for index in range(8, 16):
            source.read(index, False)
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"must have .* bytes.*run tools/cache_latents.py again"):
        CachedLatents(folder)


def test_latents_of_other_weights_do_not_mix(few, monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    few(fail_at=13)
    with pytest.raises(OSError, match="the disk is gone"):
        latent_cache.cache_latents(config(), tmp_path)
    few()
    with pytest.raises(ValueError, match="images_per_shard: 8 there, 5 now"):
        latent_cache.cache_latents(config(images_per_shard=5), tmp_path)
    other = build.latent_fingerprints
    monkeypatch.setattr(
        build, "latent_fingerprints", lambda autoencoder: {**other(autoencoder), "encoder": "0"}
    )
    with pytest.raises(ValueError, match="were made with other fingerprints; put back"):
        latent_cache.cache_latents(config(), tmp_path)


def test_two_jobs_do_not_share_a_folder(few, tmp_path):
    few()
    with claimed(tmp_path), pytest.raises(ValueError, match="is in use by process"):
        latent_cache.cache_latents(config(), tmp_path)
    assert not files(tmp_path)


def test_latents_that_are_not_finite_are_refused(few, monkeypatch, tmp_path):
    def broken(autoencoder, images):
        return LatentMoments(jnp.where(images[:, :1, :1, :1] >= 0, jnp.nan, 0.0))

    monkeypatch.setattr(latent_cache, "latent_moments", broken)
    with pytest.raises(FloatingPointError, match="latents of image number 0 are NaN or infinite"):
        latent_cache.cache_latents(config(), tmp_path)
    assert not files(tmp_path)


def test_random_latents_are_kept_as_mean_and_deviation(few, monkeypatch, tmp_path):
    def moments(autoencoder, images):
        mean = jnp.mean(images, axis=(1, 2))[:, None, None]
        return LatentMoments(
            jnp.broadcast_to(mean[..., :1], (len(images), *SHAPE)),
            jnp.broadcast_to(mean[..., 1:2] + 1, (len(images), *SHAPE)),
        )

    monkeypatch.setattr(latent_cache, "latent_moments", moments)
    folder = latent_cache.cache_latents(config(), tmp_path)
    data = dataclasses.replace(DATA, source="cached_latents", path=str(folder))
    source = build.cached_latents(data)
    assert source.manifest.random
    batch = next(build.batches(source, data, seed=0, global_batch_size=4, start_step=0))
    assert set(batch) == {"latents", "deviations", "labels", "index"}
    np.testing.assert_allclose(batch["deviations"], batch["latents"] + 1, rtol=1e-6)


def test_what_cannot_be_cached_is_told():
    for change in ({"crop": "random"}, {"max_unreadable": 1}, {"source": "cached_latents"}):
        data = dataclasses.replace(DataConfig(crop="center"), **change)
        with pytest.raises(ConfigError, match="data must be a source of images with crop"):
            config(data=data)


def stored(folder, **changes):
    changes = {"source": "cached_latents", "path": str(folder), **changes}
    return dataclasses.replace(DATA, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": ""}, "the folder of cached latents is not set; set data.path"),
        ({"path": "absent"}, "no manifest.json in absent; cache latents with tools/cache"),
        ({"image_size": 64}, "are of images with image_size 48; set data.image_size to it, or"),
        ({"crop": "center"}, "are of images with crop 'none'"),
        ({"split": "test"}, "are of images with split 'train'"),
    ],
)
def test_stage_2_refuses_latents_of_other_images(cached, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build.cached_latents(stored(cached, **changes))


def test_stage_2_refuses_mirror_images_that_are_not_there(few, tmp_path):
    data = dataclasses.replace(DATA, horizontal_flip=False)
    folder = latent_cache.cache_latents(config(data=data), tmp_path)
    assert not CachedLatents(folder).manifest.mirrored
    assert len(build.cached_latents(stored(folder, horizontal_flip=False))) == COUNT
    with pytest.raises(ValueError, match="none of mirrored images; cache them with"):
        build.cached_latents(stored(folder))


def test_images_and_latents_are_told_apart(cached):
    with pytest.raises(ValueError, match="'cached_latents' holds latents, which stage 2 alone"):
        build.source(stored(cached))
    for change in ({"crop": "random"}, {"max_unreadable": 2}):
        (name,) = change
        with pytest.raises(ConfigError, match=f"{name} must be "):
            stored(cached, **change)


def test_latents_of_another_autoencoder_are_refused(cached):
    source = CachedLatents(cached)
    run = Stage2Config(autoencoder=AUTOENCODER, data=stored(cached))
    autoencoder = build.pretrained_autoencoder(AUTOENCODER, build.Compute())
    build.require_same_encoding(source, run, autoencoder)
    build.require_same_encoding(source, run, None)
    other = dataclasses.replace(
        AUTOENCODER, encoder=dataclasses.replace(AUTOENCODER.encoder, input_size=64)
    )
    changed = dataclasses.replace(run, autoencoder=other)
    with pytest.raises(ValueError, match=r"were made with autoencoder.encoder .*48.*64"):
        build.require_same_encoding(source, changed, None)
    autoencoder.image_mean = (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="with another autoencoder: settings differ; name"):
        build.require_same_encoding(source, run, autoencoder)


def test_damaged_manifests_are_told(cached, tmp_path):
    content = json.loads((cached / "manifest.json").read_text())
    for change in ({"format": "other"}, {"shards": [{"name": "a"}]}, {"colour": "red"}):
        (tmp_path / "manifest.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match="cannot be used .* cache latents with .* again"):
            read_latent_manifest(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("shown", [True, False])
def test_a_run_on_cached_latents_is_the_run_on_their_images(runs, tmp_path, shown):
    """With a decoder to show samples by, and without any autoencoder in memory."""
    images = dataclasses.replace(pipeline.stage2(runs).data, horizontal_flip=True)
    autoencoder = pipeline.autoencoder(runs)
    if not shown:
        autoencoder = dataclasses.replace(autoencoder, checkpoint="")
    folder = latent_cache.cache_latents(
        config(autoencoder=autoencoder, data=images, batch_size=64, images_per_shard=500),
        tmp_path / "cached",
    )
    losses, noted = [], []
    for name, data in (("images", images), ("latents", stored(folder))):
        run = tmp_path / name
        stage2.train(pipeline.stage2(runs, autoencoder=autoencoder, data=data), run)
        lines = (run / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
        noted.append(read_metadata(checkpoint_folder(run))["frozen"])
        assert any(run.rglob("*.png")) == shown
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-6)
    # As models that guide each other are compared.
    for part in ("encoder", "normalization"):
        assert noted[0][part] == noted[1][part]
