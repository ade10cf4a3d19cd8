import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from rae_jax.weights.readers import WeightFileError, header, read_json, read_tensors
from rae_jax.weights.torch_files import write_torch

TENSORS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bfloat16": np.arange(4, dtype=ml_dtypes.bfloat16),
    "float16": np.ones((1, 2), np.float16),
    "scalar": np.asarray(7, np.int64),
}


def assert_same(read, expected=TENSORS):
    assert set(read) == set(expected) and len(read) == len(expected)
    for key, array in expected.items():
        assert read[key].dtype == array.dtype
        np.testing.assert_array_equal(read[key], array)


def write_shards(folder):
    save_file({"float32": TENSORS["float32"]}, folder / "model-1.safetensors")
    rest = {key: array for key, array in TENSORS.items() if key != "float32"}
    save_file(rest, folder / "model-2.safetensors")
    names = {key: f"model-{1 if key == 'float32' else 2}.safetensors" for key in TENSORS}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


def test_single_file_and_its_folder(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert_same(read_tensors(tmp_path / "model.safetensors"))
    assert_same(read_tensors(str(tmp_path)))


def test_another_stem(tmp_path):
    save_file(TENSORS, tmp_path / "decoder.safetensors")
    assert_same(read_tensors(tmp_path, "decoder"))


def test_sharded_set_and_its_folder(tmp_path):
    assert_same(read_tensors(write_shards(tmp_path)))
    assert_same(read_tensors(tmp_path))


def test_unknown_keys_are_key_errors(tmp_path):
    write_shards(tmp_path)
    tensors = read_tensors(tmp_path)
    assert "none" not in tensors
    with pytest.raises(KeyError, match="none"):
        _ = tensors["none"]


def test_missing_files_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="holds none of model.safetensors, model.safetens.*ind"
    ):
        read_tensors(tmp_path)
    with pytest.raises(FileNotFoundError, match="no weight file at .*none.safetensors"):
        read_tensors(tmp_path / "none.safetensors")
    write_shards(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weight file at .*model-2.safetensors"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-3],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: b"PK\x03\x04" + content,
    ],
    ids=["tail cut", "header cut", "empty", "other format"],
)
def test_damaged_files_are_named(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightFileError, match="model.safetensors is not a complete safetensors"):
        read_tensors(path)


def test_index_and_shards_must_agree(tmp_path):
    index = write_shards(tmp_path)
    content = json.loads(index.read_text())
    content["weight_map"]["extra"] = "model-1.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(WeightFileError, match=r"index.json lists entries.*extra \(model-1"):
        read_tensors(tmp_path)
    index.write_text("{}")
    with pytest.raises(WeightFileError, match="must hold a weight_map"):
        read_tensors(tmp_path)


def test_damaged_json_is_named(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(FileNotFoundError, match="no file at .*config.json"):
        read_json(path)
    path.write_text("{")
    with pytest.raises(WeightFileError, match="config.json is not valid JSON"):
        read_json(path)
    path.write_text("[1]")
    with pytest.raises(WeightFileError, match="config.json must hold a JSON object, got list"):
        read_json(path)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_files_of_torch(tmp_path, suffix):
    write_torch(tmp_path / f"model{suffix}", TENSORS)
    assert_same(read_tensors(tmp_path / f"model{suffix}"))


@pytest.mark.parametrize("stem", ["model", "pytorch_model", "diffusion_pytorch_model"])
def test_folders_with_files_of_torch(tmp_path, stem):
    write_torch(tmp_path / f"{stem}.bin", TENSORS)
    assert_same(read_tensors(tmp_path, "model" if stem == "pytorch_model" else stem))


def test_sharded_sets_of_torch(tmp_path):
    names = {}
    for number, (key, array) in enumerate(TENSORS.items()):
        names[key] = f"pytorch_model-{number}.bin"
        write_torch(tmp_path / names[key], {key: array})
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert_same(read_tensors(index))
    assert_same(read_tensors(tmp_path))
    (tmp_path / names["scalar"]).write_bytes(b"PK")
    with pytest.raises(WeightFileError, match="pytorch_model-3.bin cannot be read"):
        read_tensors(tmp_path)


def test_safetensors_are_preferred(tmp_path):
    write_torch(tmp_path / "pytorch_model.bin", {"old": np.zeros(1, np.float32)})
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert_same(read_tensors(tmp_path))


def test_training_checkpoints_are_told(tmp_path):
    write_torch(tmp_path / "model.pt", {"model": TENSORS, "ema": TENSORS, "epoch": 3})
    message = r"model.pt: it must hold tensors by key .* model \(4 tensors\), ema \(4 tensors\), ep"
    with pytest.raises(WeightFileError, match=message):
        read_tensors(tmp_path / "model.pt")


def test_headers_tell_what_there_is(tmp_path):
    tensors = read_tensors(write_shards(tmp_path))
    for key, array in TENSORS.items():
        for source in (tensors, TENSORS):
            found = header(source, key)
            assert (found.shape, found.dtype) == (array.shape, array.dtype)
            assert found.nbytes == array.nbytes
    with pytest.raises(KeyError):
        header(read_tensors(tmp_path / "model-1.safetensors"), "none")


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
)
def test_headers_of_every_kind(tmp_path, dtype):
    save_file({"a": np.ones((2, 1), dtype)}, tmp_path / "model.safetensors")
    assert header(read_tensors(tmp_path), "a").dtype == np.dtype(dtype)
