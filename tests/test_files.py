import os

import pytest

from rae_jax.files import replacing


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
