import dataclasses
import json
import logging
import os

import jax
import numpy as np
import pytest

from rae_jax.checkpointing.claim import claimed
from rae_jax.configuration.schema import GuidanceConfig, MeshConfig, SamplerConfig
from rae_jax.data.sources.image_folder import read_image
from rae_jax.sampling import samples
from rae_jax.sampling.labels import class_labels
from rae_jax.sampling.samples import make_samples, pictured
from rae_jax.sampling.shards import write_shard
from rae_jax.sharding.mesh import make_mesh
from tests.sampling.trained import sampling, stage2_run

GUIDED = GuidanceConfig(method="classifier_free", scale=3.0)
EQUAL = class_labels("equal", 8, 10, seed=0)
SBDM = SamplerConfig(mode="sde", diffusion_form="sbdm")
SMALLER = {"backbone_hidden_size": 8, "head_hidden_size": 8}


@pytest.fixture(scope="module")
def trained(runs, tmp_path_factory):
    return stage2_run(runs, tmp_path_factory.mktemp("stage2"))


@pytest.fixture(scope="module")
def guide(runs, tmp_path_factory):
    return stage2_run(runs, tmp_path_factory.mktemp("guide"), step=7, sizes=SMALLER)


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """The samples of the tiny config: 20 in batches of 8 on 8 devices."""
    folder = tmp_path_factory.mktemp("samples")
    make_samples(sampling(trained), folder)
    return folder


def arrays(folder):
    with np.load(folder / "samples.npz") as file:
        return file["arr_0"], file["arr_1"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same(folder, other):
    """But for rounding: other shapes are other programs, which may tip a pixel to another level."""
    (images, labels), (expected, expected_labels) = arrays(folder), arrays(other)
    np.testing.assert_array_equal(labels, expected_labels)
    difference = np.abs(images.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_a_set_is_one_file_and_a_picture(made):
    images, labels = arrays(made)
    assert images.shape == (20, 48, 48, 3)
    assert images.dtype == np.uint8
    assert sorted(labels[:10]) == sorted(labels[10:]) == list(range(10))
    np.testing.assert_array_equal(labels, class_labels("equal", 20, 10, seed=0))
    assert len({image.tobytes() for image in images}) == 20
    assert names(made) == ["config.json", "lock", "samples.npz", "samples.png"]
    # Two samples of each class in a row, in lines of two pixels.
    picture = read_image(made / "samples.png")
    assert picture.shape == (10 * 50 + 2, 2 * 50 + 2, 3)
    second_of_class_1 = np.flatnonzero(labels == 1)[1]
    np.testing.assert_array_equal(picture[52:100, 52:100], images[second_of_class_1])


@pytest.mark.parametrize(
    "batch_size, num_devices, mesh",
    [(32, 8, MeshConfig()), (3, 1, MeshConfig()), (8, 8, MeshConfig(fsdp=2, tensor=2))],
)
def test_samples_depend_on_neither_batch_nor_devices(
    trained, made, tmp_path, monkeypatch, batch_size, num_devices, mesh
):
    def some_devices(*sizes):
        return make_mesh(*sizes, devices=jax.devices()[:num_devices])

    monkeypatch.setattr(samples, "make_mesh", some_devices)
    make_samples(sampling(trained, batch_size=batch_size, mesh=mesh), tmp_path)
    assert_same(tmp_path, made)


def test_two_jobs_do_not_share_a_folder(trained, tmp_path):
    with claimed(tmp_path), pytest.raises(ValueError, match="is in use by process"):
        make_samples(sampling(trained), tmp_path)
    assert names(tmp_path) == ["lock"]


def test_more_samples_begin_with_the_same(trained, made, tmp_path):
    make_samples(sampling(trained, num_images=9, save_png=True), tmp_path)
    np.testing.assert_array_equal(arrays(tmp_path)[0], arrays(made)[0][:9])
    assert names(tmp_path / "png") == [f"{index:06d}.png" for index in range(9)]
    for index in range(9):
        image = read_image(tmp_path / "png" / f"{index:06d}.png")
        np.testing.assert_array_equal(image, arrays(made)[0][index])


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance": GUIDED},
        {"guidance": dataclasses.replace(GUIDED, scale=1.5)},
        {"seed": 1},
        {"weights": "raw"},
        {"labels": ",".join(str((label + 1) % 10) for label in EQUAL)},
    ],
    ids=["guided", "weakly guided", "seed", "raw weights", "labels"],
)
def test_settings_change_the_images(trained, made, tmp_path, changes):
    make_samples(sampling(trained, num_images=8, **changes), tmp_path)
    assert_other_images(tmp_path, made)


def assert_other_images(folder, other):
    difference = np.abs(arrays(folder)[0].astype(int) - arrays(other)[0][:8])
    assert np.all(difference.max(axis=(1, 2, 3)) > 0)


def test_guidance_of_scale_1_changes_nothing(trained, made, tmp_path):
    guidance = dataclasses.replace(GUIDED, scale=1.0)
    make_samples(sampling(trained, num_images=8, guidance=guidance), tmp_path)
    np.testing.assert_array_equal(arrays(tmp_path)[0], arrays(made)[0][:8])


@pytest.mark.long
def test_a_weaker_denoiser_of_its_own_size_guides(trained, guide, made, tmp_path):
    guidance = GuidanceConfig(method="autoguidance", scale=2.0, checkpoint=guide)
    make_samples(sampling(trained, num_images=8, guidance=guidance), tmp_path / "ema")
    assert_other_images(tmp_path / "ema", made)
    note = json.loads((tmp_path / "ema" / "config.json").read_text())["config"]
    assert (note["step"], note["guide_step"]) == (1, 7)
    raw = dataclasses.replace(guidance, weights="raw")
    make_samples(sampling(trained, num_images=8, guidance=raw), tmp_path / "raw")
    assert_other_images(tmp_path / "raw", tmp_path / "ema")


@pytest.mark.long
def test_samples_are_pinned_to_the_moment_of_the_guide(runs, trained, tmp_path):
    checkpoint = stage2_run(runs, tmp_path / "guide", step=7, sizes=SMALLER)
    guidance = GuidanceConfig(method="autoguidance", scale=2.0, checkpoint=checkpoint)
    config = sampling(trained, num_images=8, guidance=guidance)
    make_samples(config, tmp_path / "samples")
    stage2_run(runs, tmp_path / "guide", step=8, sizes=SMALLER)
    with pytest.raises(ValueError, match="guide_step: 7 there, 8 now"):
        make_samples(config, tmp_path / "samples")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sizes": {"num_classes": 9}}, "must have the denoiser.num_classes of .*, 10, got 9"),
        ({"transport": {"prediction": "clean"}}, "transport.prediction of .*, velocity, got clean"),
        ({"frozen": {"encoder": "another"}}, "must have the encoder of .* got another"),
        ({"frozen": {"normalization": "another"}}, "the normalization of .* got another"),
    ],
    ids=["classes", "prediction", "encoder", "statistics"],
)
def test_a_guide_of_other_latents_or_classes_is_refused(runs, trained, tmp_path, changes, message):
    checkpoint = stage2_run(runs, tmp_path / "guide", **changes)
    guidance = GuidanceConfig(method="autoguidance", scale=2.0, checkpoint=checkpoint)
    with pytest.raises(ValueError, match=message):
        make_samples(sampling(trained, guidance=guidance), tmp_path / "samples")
    assert not (tmp_path / "samples").exists()


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupted(trained, tmp_path, monkeypatch):
    """Folder of a set that was interrupted when two of its batches were under way."""
    calls, generate = [], samples._Batches.__call__

    def counted(self, index, labels):
        if len(calls) == 2:
            raise Interrupted
        calls.append(index.tolist())
        return generate(self, index, labels)

    monkeypatch.setattr(samples._Batches, "__call__", counted)
    with pytest.raises(Interrupted):
        make_samples(sampling(trained, save_png=True), tmp_path)
    # The second was not waited for.
    assert names(tmp_path / "shards") == ["00000000-00000008.npy"]
    calls.clear()
    return tmp_path, calls


def test_an_interrupted_set_goes_on_with_what_is_missing(trained, made, interrupted):
    folder, calls = interrupted
    # Shards of any length are gone on with: other batches, or the part of a process that was lost.
    marked = np.full((3, 48, 48, 3), 9, np.uint8)
    write_shard(folder / "shards", 10, marked)
    make_samples(sampling(trained, save_png=True), folder)
    assert calls == [[8, 9, 13, 14, 15, 16, 17, 18], [19]]
    (images, labels), (expected, expected_labels) = arrays(folder), arrays(made)
    expected[10:13] = marked
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(labels, expected_labels)
    assert names(folder) == ["config.json", "lock", "png", "samples.npz", "samples.png"]
    # Those that were not written with their shard as well.
    for index in range(20):
        np.testing.assert_array_equal(read_image(folder / f"png/{index:06d}.png"), images[index])


def test_a_batch_size_may_change_on_the_way(trained, made, interrupted, monkeypatch):
    folder, calls = interrupted
    monkeypatch.setattr(samples, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:2]))
    # Another limit of the fixture would interrupt this one too.
    config = sampling(trained, batch_size=7)
    make_samples(config, folder)
    assert calls == [list(range(8, 16)), list(range(16, 20))]
    assert_same(folder, made)


def test_a_full_disk_while_joining_leaves_what_is_needed_to_go_on(
    trained, made, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(samples, "save_npz", full)
    with pytest.raises(OSError, match="No space left"):
        make_samples(sampling(trained), tmp_path)
    assert sum(int(name[9:17]) - int(name[:8]) for name in names(tmp_path / "shards")) == 20
    monkeypatch.undo()
    monkeypatch.setattr(samples._Batches, "__call__", None)
    make_samples(sampling(trained), tmp_path)
    np.testing.assert_array_equal(arrays(tmp_path)[0], arrays(made)[0])
    assert names(tmp_path) == names(made)


def test_images_that_other_processes_wrote_elsewhere_are_missed(trained, tmp_path, monkeypatch):
    write = samples._write_own

    def lost(index, images, folder, **options):
        if 8 not in index:
            write(index, images, folder, **options)

    monkeypatch.setattr(samples, "_write_own", lost)
    with pytest.raises(ValueError, match="8 images are not in .*, the first is number 8; let"):
        make_samples(sampling(trained), tmp_path)


def test_a_finished_set_is_left_alone_and_another_refused(trained, made, monkeypatch):
    monkeypatch.setattr(samples, "restore", None)
    before = (made / "samples.npz").read_bytes()
    assert make_samples(sampling(trained), made) == made / "samples.npz"
    make_samples(sampling(trained, batch_size=1, save_png=True), made)
    assert (made / "samples.npz").read_bytes() == before
    pictures = [read_image(made / "png" / f"{n:06d}.png") for n in range(20)]
    np.testing.assert_array_equal(pictures, arrays(made)[0])
    with pytest.raises(ValueError, match="seed: 0 there, 3 now"):
        make_samples(sampling(trained, seed=3), made)


def test_the_speed_is_told(trained, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        make_samples(sampling(trained), tmp_path)
    (line,) = [record.message for record in caplog.records if "images/s" in record.message]
    assert line.startswith("20 images, ")


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"checkpoint": ""}, ValueError, "set --config.checkpoint to the work folder"),
        ({"checkpoint": "{runs}/none"}, FileNotFoundError, "no folder .*none"),
        ({"checkpoint": "{runs}/stage1"}, ValueError, "must hold a run of stage2, it holds"),
        ({"labels": "7-10"}, ValueError, "below the model's 10 classes, got 10$"),
        ({"sampler": SBDM}, ValueError, "'sbdm' .* is negative or infinite on LinearPath"),
        ({"mesh": MeshConfig(data=3)}, ValueError, "number of devices, 8, got data=3"),
    ],
)
def test_wrong_settings_are_refused_before_anything_large_is_loaded(
    runs, trained, tmp_path, monkeypatch, changes, error, message
):
    monkeypatch.setattr(samples, "restore", None)
    if "checkpoint" in changes:
        changes = {"checkpoint": changes["checkpoint"].format(runs=runs)}
    with pytest.raises(error, match=message):
        make_samples(sampling(trained, **changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_picture_shows_the_first_samples_of_the_lowest_labels():
    labels = np.array([5, 1, 1, 3, 5, 1, 3, 3])
    assert pictured(labels, 48)[0].tolist() == [1, 2, 3, 6, 0, 4]
    assert pictured(labels, 48)[1] == 2
    index, columns = pictured(class_labels("equal", 50_000, 1000, seed=0), 256)
    assert (len(index), columns) == (100, 10)
    assert len(pictured(np.arange(1000).repeat(50), 512)[0]) == 25
    # One row of each of so many labels would be no picture.
    assert pictured(np.arange(1000), 256)[0].tolist() == list(range(100))
    assert [pictured(np.arange(n), 256)[1] for n in (1, 2, 4, 5, 9, 10)] == [1, 2, 2, 3, 3, 4]


def test_a_set_for_which_there_is_no_room_says_so(trained, tmp_path):
    # A file stands where the folder should be.
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        make_samples(sampling(trained), tmp_path / "file" / "samples")
    assert os.listdir(tmp_path) == ["file"]
