import dataclasses
import importlib.util
import os
import pathlib

import pytest

from rae_jax import build
from rae_jax.configuration import schema
from rae_jax.evaluation import generation, jobs, reconstruction
from rae_jax.files import absolute, any_path, new_folder, replacing, require_absent
from rae_jax.training import demo, latent_cache, pretraining


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "note.txt"
    with replacing(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["note.txt"]


def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as partial:
        partial.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["note.txt"]


def test_permissions_are_the_users_whatever_the_writer_sets(tmp_path, umask):
    path = tmp_path / "note.txt"
    # A rest of a killed process, with permissions of its own.
    (tmp_path / "note.txt.partial").touch(0o600)
    with replacing(path) as partial:
        partial.unlink()
        partial.touch(0o600)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_new_folder_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "above" / "new"
    path.parent.mkdir()
    (path.parent / "new.partial").mkdir()
    (path.parent / "new.partial" / "rest").touch()
    with new_folder(path) as partial:
        (partial / "a").touch()
        assert not path.exists()
    assert names(path) == ["a"]
    assert names(path.parent) == ["new"]


def test_a_failure_leaves_no_folder(tmp_path):
    with pytest.raises(OSError, match="disk full"), new_folder(tmp_path / "new") as partial:
        (partial / "a").touch()
        raise OSError("disk full")
    assert names(tmp_path) == []


def test_nothing_takes_the_place_of_what_is_there(tmp_path):
    for path in (tmp_path / "folder", tmp_path / "link"):
        path.symlink_to("nowhere") if path.name == "link" else path.mkdir()
        with pytest.raises(FileExistsError, match=f"{path.name} is there already; name another"):
            with new_folder(path):
                raise AssertionError
        with pytest.raises(FileExistsError, match=f"{path.name} is there already"):
            require_absent(path)
    require_absent(tmp_path / "other")


@pytest.mark.parametrize("path", ["gs:/bucket/run", "gs://", "gs:///run", "s3://bucket/run"])
def test_other_addresses_are_never_taken_for_local_folders(path):
    with pytest.raises(ValueError, match=f"a local one or gs://bucket/..., got '{path}'"):
        any_path(path)
    with pytest.raises(ValueError, match="a local one or gs://bucket"):
        with replacing(path):
            pass


def test_paths_that_only_look_alike_are_local():
    for path in ("gs/bucket", "runs/gs:/x", "./gs:/x", "/runs/stage1", "C:/x", ""):
        assert any_path(path) == pathlib.Path(path)
    assert absolute("runs") == pathlib.Path.cwd() / "runs"


def test_a_bucket_without_its_package_is_told_by_the_name_of_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="gs://bucket needs a package .* the extra `gcs`"):
        any_path("gs://bucket/run")


def test_new_folders_are_local_only():
    with pytest.raises(ValueError, match="must be on a local file system, got gs://bucket/new"):
        with new_folder("gs://bucket/new"):
            pass
    with pytest.raises(ValueError, match="must be on a local file system, got gs://bucket/new"):
        require_absent("gs://bucket/new")


JOBS = {
    "cache_latents": (latent_cache.cache_latents, schema.LatentCacheConfig),
    "demo": (demo.run, schema.DemoConfig),
    "evaluate_generation": (generation.evaluate, schema.GenerationEvaluationConfig),
    "evaluate_reconstruction": (reconstruction.evaluate, schema.ReconstructionEvaluationConfig),
    "pack_images": (jobs.pack, schema.PackingConfig),
    "pretrain_demo_encoder": (pretraining.train, schema.PretrainingConfig),
    "reference_statistics": (jobs.compute_reference, schema.ReferenceStatisticsConfig),
}


@pytest.mark.parametrize("name", JOBS)
def test_jobs_that_cannot_use_a_bucket_refuse_at_once(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, config = JOBS[name]
    with pytest.raises(ValueError, match="this job must be on a local file system, got gs://b/run"):
        run(config(), "gs://b/run")
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["image_folder", "array_record", "tfds"])
def test_data_is_not_read_from_a_bucket(kind):
    config = dataclasses.replace(schema.DataConfig(), source=kind, path="gs://b/images")
    with pytest.raises(ValueError, match="data.path must be on a local file system"):
        build.source(config)
