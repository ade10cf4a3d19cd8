import os

import pytest

from rae_jax.files import new_folder, replacing, require_absent


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
