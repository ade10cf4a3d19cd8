"""Packing into shards: what is in them, going on, verifying, refusing."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from rae_jax.data import packing, pipeline, transforms
from rae_jax.data.decoding import UnreadableImageError
from rae_jax.data.records import read_manifest
from rae_jax.data.sources.array_record import ArrayRecords
from rae_jax.data.sources.digits import Digits
from rae_jax.data.sources.image_folder import ImageFolder
from tests.data import photos
from tests.project import Project, succeeded


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return photos.folder(tmp_path_factory.mktemp("images") / "train")


def pack(source, output, **options):
    options = {"preparation": packing.Preparation(), "num_workers": 0, **options}
    return packing.pack(source, output, **options)


def shards(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.array_record")}


def test_a_second_packing_gives_the_same_bytes(images, tmp_path):
    told = []
    manifest = pack(
        images, tmp_path / "a", images_per_shard=4, advance=lambda *count: told.append(count)
    )
    assert [shard.records for shard in manifest.shards] == [4, 4, 2]
    assert told == [(4, 10), (4, 10), (2, 10)]
    assert (manifest.preparation, manifest.unreadable) == ("files", ())
    assert read_manifest(tmp_path / "a") == manifest
    assert pack(images, tmp_path / "b", images_per_shard=4) == manifest
    assert shards(tmp_path / "a") == shards(tmp_path / "b")
    assert sorted(shards(tmp_path / "a")) == [
        f"images-0000{number}-of-00003.array_record" for number in range(3)
    ]


def stream(source, *transformations):
    batches = pipeline.batches(
        source, seed=5, global_batch_size=4, transforms=(*transformations, transforms.RandomFlip())
    )
    return [next(batches) for _ in range(6)]


@pytest.mark.parametrize(
    ("preparation", "before", "after"),
    [
        (
            packing.Preparation(center_crop=24),
            transforms.CenterCrop(24),
            transforms.RequireSize(24),
        ),
        (
            packing.Preparation(shorter_side=30),
            transforms.RandomCrop(24, 30),
            transforms.RandomCrop(24, 30),
        ),
    ],
)
def test_prepared_images_train_as_the_files_do(images, tmp_path, preparation, before, after):
    pack(images, tmp_path / "records", preparation=preparation)
    prepared = stream(ArrayRecords(tmp_path / "records"), after)
    for ours, theirs in zip(prepared, stream(ImageFolder(images), before), strict=True):
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_digits_train_as_the_built_in_ones_do(tmp_path):
    pack("builtin:digits/test", tmp_path / "records")
    packed, builtin = ArrayRecords(tmp_path / "records"), Digits("test", image_size=48)
    assert (len(packed), packed.classes) == (len(builtin), builtin.classes)
    for ours, theirs in zip(stream(packed), stream(builtin), strict=True):
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_what_is_missing_or_damaged_is_packed_again(images, tmp_path):
    output = tmp_path / "records"
    manifest = pack(images, output, images_per_shard=2)
    whole = shards(output)
    first, second, third, *_ = sorted(whole)
    (output / first).unlink()
    data = bytearray(whole[second])
    data[len(data) // 2] ^= 1
    (output / second).write_bytes(data)
    (output / "packing" / "00002.json").write_text("{")
    (output / f"{third}.1.partial").write_bytes(b"of a process that was killed")
    untouched = (output / sorted(whole)[3]).stat().st_mtime_ns
    assert pack(images, output, images_per_shard=2) == manifest
    assert shards(output) == whole
    assert (output / sorted(whole)[3]).stat().st_mtime_ns == untouched
    assert list(output.glob("*.partial")) == []


def test_other_images_or_settings_are_refused(images, tmp_path):
    output = tmp_path / "records"
    pack(images, output, images_per_shard=4)
    with pytest.raises(ValueError, match="images_per_shard 4 there, 3 now"):
        pack(images, output, images_per_shard=3)
    with pytest.raises(ValueError, match="preparation 'files' there, 'center crop 8' now"):
        pack(images, output, images_per_shard=4, preparation=packing.Preparation(center_crop=8))
    other = shutil.copytree(images, tmp_path / "other")
    (other / "class0" / "0.jpg").rename(other / "class1" / "0_too.jpg")
    with pytest.raises(ValueError, match="begun with other images or settings .names_and_labels"):
        pack(other, output, images_per_shard=4)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="full is not empty, and no packing was begun in it"):
        pack(images, tmp_path / "full")
    with pytest.raises(ValueError, match="images_per_shard must be at least 1, got 0"):
        pack(images, tmp_path / "new", images_per_shard=0)
    with pytest.raises(ValueError, match="center_crop and shorter_side exclude each other"):
        packing.Preparation(center_crop=8, shorter_side=8)
    with pytest.raises(ValueError, match="shorter_side must be at least 0, got -1"):
        packing.Preparation(shorter_side=-1)


def test_unreadable_images_are_left_out_up_to_a_limit(images, tmp_path):
    damaged = shutil.copytree(images, tmp_path / "images")
    # All of one shard, and one of the next.
    bad = ["class0/0.jpg", "class0/1.png", "class0/2.webp"]
    for name in bad:
        (damaged / name).write_text("no picture")
    for limit, last in ((0, bad[0]), (1, bad[1]), (2, bad[2])):
        message = rf"cannot read image {last}: .*one more than the {limit} that may be left out"
        with pytest.raises(UnreadableImageError, match=message):
            pack(damaged, tmp_path / "records", images_per_shard=2, max_unreadable=limit)
    assert not (tmp_path / "records" / "manifest.json").exists()
    manifest = pack(damaged, tmp_path / "records", images_per_shard=2, max_unreadable=3)
    assert [message.split(":")[0] for message in manifest.unreadable] == [
        f"cannot read image {name}" for name in bad
    ]
    assert [shard.records for shard in manifest.shards] == [1, 2, 2, 2]
    assert pack(damaged, tmp_path / "records", images_per_shard=2, max_unreadable=3) == manifest
    assert len(ArrayRecords(tmp_path / "records")) == 7


ARGUMENTS = ("tools/prepare_dataset.py", "--source=images", "--images_per_shard=10")


@pytest.mark.slow
def test_a_killed_packing_goes_on_with_several_processes(tmp_path):
    project = Project(tmp_path / "project")
    photos.folder(project / "images", classes=3, per_class=10)
    # Enough work to be killed in the middle of it.
    for label in range(3):
        for number in range(150):
            path = project / f"images/class{label}/more{number:03d}.png"
            path.symlink_to(project / f"images/class{label}/1.png")
    succeeded(project.run(*ARGUMENTS, "--output=at_once", "--num_workers=1"))
    output = project / "records"
    process = subprocess.Popen(
        [sys.executable, *ARGUMENTS, "--output=records", "--num_workers=2"],
        cwd=project.folder,
        env=project.environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(list(output.glob("*.array_record"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 3 <= len(shards(output)) < 48
    assert not (output / "manifest.json").exists()
    finished = succeeded(project.run(*ARGUMENTS, "--output=records", "--num_workers=2"))
    assert finished.stdout == "records: records, 480 images in 48 shards, 0 left out\n"
    assert shards(output) == shards(project / "at_once")
    assert json.loads((output / "manifest.json").read_text()) == json.loads(
        (project / "at_once" / "manifest.json").read_text()
    )
