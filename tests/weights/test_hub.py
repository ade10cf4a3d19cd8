import huggingface_hub
import pytest
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
