import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from rae_jax.layers.functional import split
from rae_jax.models.encoders.mae import MAEConfig, MAEEncoder
from rae_jax.weights import hub
from rae_jax.weights.pretrained import Preprocessing, encoder_config, load_encoder, save_encoder
from tests.comparison import load_case, nchw_to_nhwc
from tests.models.compiled import filled, run

CONFIG = MAEConfig(
    hidden_size=8, depth=2, num_heads=2, intermediate_size=12, patch_size=4, image_size=8
)
PREPROCESSING = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))


@pytest.fixture
def folder(tmp_path):
    encoder = filled(lambda: MAEEncoder(CONFIG, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    save_encoder(tmp_path / "encoder", encoder, PREPROCESSING)
    return tmp_path / "encoder"


def test_saved_encoders_load_with_the_same_bits(folder, tmp_path):
    encoder, preprocessing = load_encoder(str(folder), dtype=jnp.bfloat16, unroll=2, remat="full")
    assert preprocessing == PREPROCESSING
    assert encoder.config == CONFIG and encoder.unroll == 2 and encoder.remat == "full"
    save_encoder(tmp_path / "again", encoder, preprocessing)
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_arrays_go_straight_to_their_shards(folder):
    mesh = jax.make_mesh((2,), ("fsdp",), devices=jax.devices()[:2])

    def place(name, leaf):
        cut = ("fsdp",) if name == "blocks.mlp.up.kernel" else ()
        return NamedSharding(mesh, PartitionSpec(*cut, *(None,) * (len(leaf.shape) - len(cut))))

    whole, _ = load_encoder(str(folder), dtype=jnp.float32)
    cut, _ = load_encoder(str(folder), dtype=jnp.float32, place=place)
    kernel = cut.blocks.mlp.up.kernel[...]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(1, 8, 12)}
    np.testing.assert_array_equal(kernel, whole.blocks.mlp.up.kernel[...])
    assert len(cut.class_token[...].sharding.device_set) == 2


def test_a_revision_of_a_repository_can_be_named(folder, monkeypatch):
    asked = []

    def resolve(name, files, *, revision):
        asked.append((name, revision))
        return folder

    monkeypatch.setattr(hub, "resolve", resolve)
    load_encoder("owner/model", dtype=jnp.float32, revision="v2")
    assert asked == [("owner/model", "v2")]


FOLDERS = {
    "encoder_mae_tiny": ("entries", "64x64", 0.485),
    "encoder_siglip2_tiny": ("entries", "64x64", 0.5),
    "encoder_dinov2_reg_tiny": ("encoder_entries", "70x70", 0.485),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_transformers_load_and_are_written_again(name, tmp_path):
    case, (entries, size, mean) = load_case(name), FOLDERS[name]
    (tmp_path / "config.json").write_text(json.dumps(case.config["encoder_config.json"]))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(case.config["preprocessor"]))
    save_file(case.entries(entries), tmp_path / "model.safetensors")
    encoder, preprocessing = load_encoder(str(tmp_path), dtype=jnp.float32)
    assert preprocessing.mean[0] == mean
    pixels = jnp.asarray(nchw_to_nhwc(case.input(f"pixels_{size}")))
    features = run(encoder, pixels)
    case.assert_close(f"tokens_{size}", features.reshape(2, -1, 48))
    save_encoder(tmp_path / "again", encoder, preprocessing)
    again, _ = load_encoder(str(tmp_path / "again"), dtype=jnp.float32)
    assert split(again)[0].graphdef == split(encoder)[0].graphdef
    leaves = zip(jax.tree.leaves(split(again)[1]), jax.tree.leaves(split(encoder)[1]), strict=True)
    for written, read in leaves:
        np.testing.assert_array_equal(written, read)


def test_other_model_types_are_refused(folder):
    content = json.loads((folder / "config.json").read_text()) | {"model_type": "bert"}
    (folder / "config.json").write_text(json.dumps(content))
    message = "config.json: model_type 'bert' is not supported; there are dinov2, .*vit_mae"
    with pytest.raises(ValueError, match=message):
        load_encoder(str(folder), dtype=jnp.float32)


@pytest.mark.parametrize(
    "name, message",
    [
        ("dinov2-with-registers", "did you mean 'dinov2_with_registers'[?]"),
        ("siglip2", "NaFlex model; use SigLIP2 of a fixed resolution, such as google/siglip2-base"),
        (None, "model_type 'None' is not supported; there are dinov2"),
    ],
)
def test_what_is_nearly_supported_gets_advice(name, message):
    with pytest.raises(ValueError, match=message):
        encoder_config({"model_type": name})


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_missing_files_are_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_encoder(str(folder), dtype=jnp.float32)


def test_incomplete_preprocessing_is_refused(folder):
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    with pytest.raises(ValueError, match="must hold image_std as three numbers, got None"):
        load_encoder(str(folder), dtype=jnp.float32)


def test_weights_that_do_not_fit_name_the_folder(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["embeddings.cls_token"]
    tensors["other"] = np.zeros(3, np.float32)
    save_file(tensors, folder / "model.safetensors")
    message = "(?s)encoder: 2 mismatches.*missing entry embeddings.cls_token.*surplus entry other"
    with pytest.raises(ValueError, match=message):
        load_encoder(str(folder), dtype=jnp.float32)
