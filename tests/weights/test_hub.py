from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.errors import LocalEntryNotFoundError

from rae_jax.weights import hub


def test_folders_are_themselves(tmp_path):
    assert hub.resolve(str(tmp_path), ["config.json"]) == tmp_path


def test_repositories_are_downloaded_with_the_wanted_files_only(tmp_path, monkeypatch):
    calls = []

    def download(repository, *, revision, allow_patterns):
        calls.append((repository, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    files = ("config.json", "*.safetensors")
    assert hub.resolve("owner/some-model", files) == tmp_path
    assert hub.resolve("owner/some-model", files, revision="v2") == tmp_path
    assert calls == [("owner/some-model", revision, [*files]) for revision in (None, "v2")]


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("offline"), ConnectionError("no net")])
def test_without_network_the_error_says_what_to_fetch(monkeypatch, error):
    def download(repository, *, revision, allow_patterns):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    message = r"Download config.json, \*.safetensors from https://huggingface.co/owner/model into"
    with pytest.raises(FileNotFoundError, match=message):
        hub.resolve("owner/model", ("config.json", "*.safetensors"))


def response(status):
    return SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.GatedRepoError("403", response=response(403)), "owner/model is gated.*HF_TOKEN"),
        (
            errors.RepositoryNotFoundError("404", response=response(404)),
            "no owner/model on the hub",
        ),
        (errors.RevisionNotFoundError("404", response=response(404)), "has no revision 'v9'"),
    ],
)
def test_refusals_of_the_hub_are_told_apart(monkeypatch, error, message):
    def download(repository, *, revision, allow_patterns):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(FileNotFoundError, match=message):
        hub.resolve("owner/model", ("config.json",), revision="v9")


def test_a_name_nearly_published_is_suggested(monkeypatch):
    def download(repository, *, revision, allow_patterns):
        raise errors.RepositoryNotFoundError("404", response=response(404))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(FileNotFoundError, match=r"mean nyu-visionx/RAE-mae-base-p16-ViTXL-n08\?"):
        hub.resolve("nyu-visionx/RAE-mae-base-ViTXL-n08", ("config.json",))


def test_the_offline_switch_of_the_hub_is_obeyed(monkeypatch, tmp_path):
    # Set after the library was imported, so at the place where it keeps it.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Download config.json from https://huggingface.co"):
        hub.resolve("owner/model", ("config.json",))


def test_only_the_hub_has_revisions(tmp_path):
    with pytest.raises(ValueError, match="is not on the hub, so it has no revision 'v1'"):
        hub.resolve(str(tmp_path), ["config.json"], revision="v1")


@pytest.mark.parametrize("name", ["missing", "./missing/folder", "/missing/folder", "a/b/c", "~/x"])
def test_names_that_are_nothing_are_refused(name):
    with pytest.raises(FileNotFoundError, match="neither a folder, nor a hub repository"):
        hub.resolve(name, ["config.json"])


def test_builtin_models_lie_in_the_package(tmp_path, monkeypatch):
    (tmp_path / "assets" / "some").mkdir(parents=True)
    monkeypatch.setattr(hub.importlib.resources, "files", lambda package: tmp_path)
    assert hub.resolve("builtin:some", []) == tmp_path / "assets" / "some"
    with pytest.raises(FileNotFoundError, match=r"no built-in model 'other'; there are \['some'\]"):
        hub.resolve("builtin:other", [])
