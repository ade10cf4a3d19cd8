import ml_dtypes
import numpy as np
import pytest

from rae_jax.weights import writers
from rae_jax.weights.readers import read_json, read_tensors


def test_tensors_survive_the_round_trip_whatever_their_memory_layout(tmp_path):
    square = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors = {
        "plain": square,
        "transposed": square.T,
        "strided": square[:, ::2],
        "bfloat16": square.astype(ml_dtypes.bfloat16),
    }
    path = tmp_path / "new" / "model.safetensors"
    writers.write_tensors(path, tensors)
    read = read_tensors(path)
    assert set(read) == set(tensors)
    for key, array in tensors.items():
        assert read[key].dtype == array.dtype
        np.testing.assert_array_equal(read[key], array)
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_json_survives_the_round_trip(tmp_path):
    content = {"name": "π", "sizes": [1, 2.5]}
    writers.write_json(tmp_path / "config.json", content)
    assert read_json(tmp_path / "config.json") == content


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    writers.write_tensors(path, {"a": np.zeros(2, np.float32)})

    def fail(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(writers, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        writers.write_tensors(path, {"a": np.ones(2, np.float32)})
    np.testing.assert_array_equal(read_tensors(path)["a"], np.zeros(2))
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_files_have_the_permissions_of_any_other_new_file(tmp_path):
    writers.write_tensors(tmp_path / "model.safetensors", {"a": np.zeros(2, np.float32)})
    (tmp_path / "plain").touch()
    modes = [(tmp_path / name).stat().st_mode for name in ("model.safetensors", "plain")]
    assert modes[0] == modes[1]
