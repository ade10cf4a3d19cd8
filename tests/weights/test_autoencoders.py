import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from rae_jax.configuration import schema
from rae_jax.configuration.schema import AutoencoderConfig, ConfigError
from rae_jax.data.sources.digits import Digits
from rae_jax.layers.functional import abstract
from rae_jax.models.autoencoders.latent_normalization import (
    LatentNormalization,
    ScaledNormalization,
)
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.autoencoders.rae_config import RAEConfig
from rae_jax.models.decoders.vit_decoder import ViTDecoder
from rae_jax.sampling.reconstruct import Reconstructor
from rae_jax.sampling.samples import make_samples
from rae_jax.sharding.mesh import make_mesh
from rae_jax.training import stage2
from rae_jax.weights import autoencoders, convert
from rae_jax.weights.pretrained import Preprocessing, encoder_from_config, save_encoder
from rae_jax.weights.tables.diffusers_rae import diffusers_rae_table
from rae_jax.weights.tables.vit_decoder import VIT_DECODER
from rae_jax.weights.torch_files import write_torch
from tests import pipeline
from tests.comparison import load_case
from tests.models.autoencoders.diffusers import TINY, autoencoder_of, tensors_of
from tests.models.compiled import example, run

STEM = "diffusion_pytorch_model"
CASE = "diffusers_rae_tiny_mae_tf5names"


def write_folder(case, folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(case.config))
    save_file(tensors_of(case), folder / f"{STEM}.safetensors")
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as diffusers writes it."""
    return write_folder(load_case(CASE), tmp_path_factory.mktemp("published") / "rae")


def leaves(module):
    state = nnx.to_flat_state(nnx.state(module))
    return {path: np.asarray(leaf[...]) for path, leaf in state}


def assert_same(first, second):
    first, second = leaves(first), leaves(second)
    assert first.keys() == second.keys()
    for path in first:
        np.testing.assert_array_equal(first[path], second[path], err_msg=str(path))


def test_a_folder_of_diffusers(published):
    autoencoder = AutoencoderRAE.from_pretrained(str(published))
    assert_same(autoencoder, autoencoder_of(load_case(CASE)))
    assert autoencoder.image_size == 16
    assert isinstance(autoencoder.normalization, ScaledNormalization)


def test_a_sharded_folder(published, tmp_path):
    tensors = load_file(published / f"{STEM}.safetensors")
    shutil.copy(published / "config.json", tmp_path)
    names = sorted(tensors)
    halves = {f"{STEM}-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, keys in halves.items():
        save_file({key: tensors[key] for key in keys}, tmp_path / file)
    index = {"weight_map": {key: file for file, keys in halves.items() for key in keys}}
    (tmp_path / f"{STEM}.safetensors.index.json").write_text(json.dumps(index))
    assert_same(
        AutoencoderRAE.from_pretrained(str(tmp_path)),
        AutoencoderRAE.from_pretrained(str(published)),
    )


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("style", ["transformers4", "transformers5"])
def test_what_is_saved_holds_every_entry_bit_for_bit(name, style):
    case = load_case(f"diffusers_rae_tiny_{name}")
    config, tensors = autoencoders.to_diffusers(autoencoder_of(case), style=style)
    expected = tensors_of(case)
    if name.endswith("tf5names") == (style == "transformers5"):
        assert tensors.keys() == expected.keys()
    # All but what the model does not use.
    unused = ("mask_token", ".head.")
    for key in tensors.keys() & expected.keys():
        if not any(part in key for part in unused):
            values = expected[key]
            # One case has statistics with a leading axis of one, which says nothing.
            values = values[0] if "latents" in key and values.ndim == 4 else values
            np.testing.assert_array_equal(tensors[key], values, err_msg=key)
    again = autoencoders.from_diffusers(config, tensors, autoencoders.Loading())
    assert_same(again, autoencoder_of(case))
    original = RAEConfig.read(case.config)
    assert config.scaling_factor == original.scaling_factor
    assert config.image_mean == pytest.approx(original.image_mean)


def test_a_saved_folder_is_loaded_and_saved_again(published, tmp_path):
    autoencoder = AutoencoderRAE.from_pretrained(str(published))
    autoencoder.save_pretrained(tmp_path / "out")
    written = load_file(tmp_path / "out" / f"{STEM}.safetensors")
    read = load_file(published / f"{STEM}.safetensors")
    assert written.keys() == read.keys()
    assert all(np.array_equal(written[key], read[key]) for key in read)
    assert_same(AutoencoderRAE.from_pretrained(str(tmp_path / "out")), autoencoder)


@pytest.mark.parametrize("suffix", ["", "_tf5names"])
def test_every_key_of_every_release_is_accounted_for(suffix):
    case = load_full(suffix)
    for name, entries in case["entries"].items():
        config = RAEConfig.read(case["config"][name])
        # Views of one number: no file of this size is made.
        tensors = {key: np.broadcast_to(np.float32(0), shape) for key, shape in entries.items()}
        parts = autoencoders.empty_parts(config, tensors)
        table = diffusers_rae_table(config, tensors)
        assert not convert.report(table, tensors, parts).problems, name
        style = "transformers5" if suffix else "transformers4"
        written = autoencoders.entry_shapes(config, style=style)
        assert written == {key: tuple(shape) for key, shape in entries.items()}, name


def load_full(suffix):
    from tests.comparison import GOLDEN

    return json.loads((GOLDEN / f"diffusers_rae_full_keys{suffix}" / "case.json").read_text())


def test_every_mismatch_is_listed_at_once(published, tmp_path):
    tensors = load_file(published / f"{STEM}.safetensors")
    del tensors["decoder.decoder_norm.bias"]
    tensors["decoder.decoder_pred.bias"] = tensors["decoder.decoder_pred.bias"][:-1]
    tensors["extra"] = np.zeros(3, np.float32)
    shutil.copy(published / "config.json", tmp_path)
    save_file(tensors, tmp_path / f"{STEM}.safetensors")
    with pytest.raises(convert.WeightError) as error:
        AutoencoderRAE.from_pretrained(str(tmp_path))
    text = str(error.value)
    for part in (str(tmp_path), "decoder_norm.bias", "decoder_pred.bias", "surplus entry extra"):
        assert part in text


def test_statistics_that_disagree_are_told(published, tmp_path, monkeypatch):
    tensors = load_file(published / f"{STEM}.safetensors")
    content = json.loads((published / "config.json").read_text())
    said = {"latents_mean": (1 + tensors["_latents_mean"]).tolist()}
    (tmp_path / "config.json").write_text(json.dumps(content | said))
    save_file(tensors, tmp_path / f"{STEM}.safetensors")
    warnings = []
    monkeypatch.setattr(
        autoencoders.logging, "warning", lambda text, *values: warnings.append(text % values)
    )
    autoencoder = AutoencoderRAE.from_pretrained(tmp_path)
    assert len(warnings) == 1
    assert "another latents_mean than config.json" in warnings[0]
    held = np.ravel(tensors["_latents_mean"])
    np.testing.assert_array_equal(np.ravel(autoencoder.normalization.mean[...]), held)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither an autoencoder of diffusers nor a run"):
        AutoencoderRAE.from_pretrained(tmp_path)


def test_positions_in_a_file_are_not_read(published, tmp_path):
    tensors = load_file(published / f"{STEM}.safetensors")
    tensors["decoder.decoder_pos_embed"] = np.ones((1, 17, 32), np.float32)
    shutil.copy(published / "config.json", tmp_path)
    save_file(tensors, tmp_path / f"{STEM}.safetensors")
    assert_same(
        AutoencoderRAE.from_pretrained(str(tmp_path)),
        AutoencoderRAE.from_pretrained(str(published)),
    )


def test_arrays_go_to_their_shards(published):
    mesh = make_mesh(data=1, fsdp=8)
    cut = AutoencoderRAE.from_pretrained(str(published), mesh=mesh)
    kernel = cut.encoder.blocks.attention.qkv.kernel.get_value()
    assert kernel.sharding.num_devices == 8
    assert kernel.addressable_shards[0].data.size == kernel.size // 8
    for _, leaf in nnx.to_flat_state(nnx.state(cut)):
        assert leaf.get_value().sharding.num_devices == 8
    whole = AutoencoderRAE.from_pretrained(str(published))
    images = 0.5 + 0.2 * example((2, 64, 64, 3))
    np.testing.assert_allclose(run(cut, images), run(whole, images), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """An encoder's folder, `model.pt` and `stat.pt`."""
    folder = tmp_path_factory.mktemp("collection")
    autoencoder = autoencoder_of(load_case(CASE))
    mean = (0.25, 0.5, 0.75)
    save_encoder(folder / "encoder", autoencoder.encoder, Preprocessing(mean, mean))
    write_torch(folder / "model.pt", convert.export(VIT_DECODER, autoencoder.decoder))
    statistics = {"mean": example((64, 4, 4)), "var": np.square(example((64, 4, 4)))}
    write_torch(folder / "stat.pt", {k: np.asarray(v, np.float32) for k, v in statistics.items()})
    return folder


def test_an_encoder_with_files_of_the_collection(collection):
    autoencoder = AutoencoderRAE.from_pretrained(
        str(collection / "encoder"),
        decoder=collection / "model.pt",
        statistics=collection / "stat.pt",
        num_heads=4,
    )
    source = autoencoder_of(load_case(CASE))
    assert_same(autoencoder.encoder, source.encoder)
    assert_same(autoencoder.decoder, source.decoder)
    assert autoencoder.encoder_input_size == 64
    assert autoencoder.image_mean == (0.25, 0.5, 0.75)
    assert isinstance(autoencoder.normalization, LatentNormalization)
    mean = np.moveaxis(np.asarray(example((64, 4, 4))), 0, -1)
    np.testing.assert_array_equal(autoencoder.normalization.mean[...], mean)


def test_statistics_of_the_collection_go_into_those_of_diffusers(collection, tmp_path):
    autoencoder = AutoencoderRAE.from_pretrained(
        str(collection / "encoder"),
        decoder=collection / "model.pt",
        statistics=collection / "stat.pt",
        num_heads=4,
    )
    # The case's positions are those that diffusers makes.
    autoencoder.save_pretrained(tmp_path / "out")
    folded = AutoencoderRAE.from_pretrained(str(tmp_path / "out"))
    images = 0.5 + 0.2 * example((2, 64, 64, 3))
    for method in ("encode", "__call__"):
        ours, theirs = (run(a, images, method=method) for a in (autoencoder, folded))
        np.testing.assert_allclose(theirs, ours, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": None}, "no decoder of width 32 is published.*give num_heads"),
        ({"num_heads": 4, "statistics": "model.pt"}, "must hold mean and var"),
        ({"num_heads": 4, "decoder": "stat.pt"}, "no RAE decoder: it lacks decoder_embed.weight"),
        ({"num_heads": 4, "weights": "raw"}, "got weights"),
        ({"num_heads": 4, "decoder": "absent.pt"}, "absent.pt"),
    ],
)
def test_wrong_files_of_the_collection(collection, changes, message):
    changes = {"decoder": "model.pt", "statistics": "stat.pt"} | changes
    for name in ("decoder", "statistics"):
        changes[name] = collection / changes[name]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        AutoencoderRAE.from_pretrained(str(collection / "encoder"), **changes)


def test_a_run_of_stage_1(runs):
    folder = str(runs / "stage1")
    averaged = AutoencoderRAE.from_pretrained(folder)
    raw = AutoencoderRAE.from_pretrained(
        folder, weights="raw", statistics=runs / "statistics" / "latent_statistics.npz"
    )
    assert averaged.normalization is None and raw.normalization is not None
    kernels = [np.asarray(a.decoder.embedding.kernel[...]) for a in (averaged, raw)]
    assert np.any(kernels[0] != kernels[1])
    with pytest.raises(ValueError, match="takes weights, statistics; got num_heads"):
        AutoencoderRAE.from_pretrained(folder, num_heads=3)
    with pytest.raises(ValueError, match="is not on the hub"):
        AutoencoderRAE.from_pretrained(folder, revision="main")
    with pytest.raises(ValueError, match="must hold a run of stage1, it holds one of stage2"):
        AutoencoderRAE.from_pretrained(str(runs / "stage2"))


def test_what_diffusers_cannot_express_is_told(runs, published):
    trained = AutoencoderRAE.from_pretrained(str(runs / "stage1"))
    with pytest.raises(ValueError, match="builds no mae encoder with.*intermediate_size"):
        trained.save_pretrained(runs / "never")
    autoencoder = AutoencoderRAE.from_pretrained(str(published))
    autoencoder.decoder.position_table[...] += 0.5
    with pytest.raises(ValueError, match="makes the decoder's positions itself.* up to 0.5"):
        autoencoder.save_pretrained(runs / "never")
    autoencoder = AutoencoderRAE.from_pretrained(published)
    autoencoder.noise = print
    with pytest.raises(ValueError, match="no noise like"):
        autoencoder.save_pretrained(runs / "never")
    with pytest.raises(ValueError, match="style must be one of"):
        autoencoder.save_pretrained(runs / "never", style="mine")
    autoencoder.decoder = None
    with pytest.raises(ValueError, match="only encodes"):
        autoencoder.save_pretrained(runs / "never")
    assert not (runs / "never").exists()


def test_reconstructions_of_a_published_autoencoder(published):
    reconstruct = Reconstructor(str(published), batch_size=2)
    images = np.stack([Digits("test", image_size=16)[i]["image"] for i in range(3)])
    pictures = reconstruct(images)
    assert reconstruct.image_size == 16 and pictures.shape == (3, 16, 16, 3)
    with pytest.raises(ValueError, match="takes subfolder; got weights"):
        Reconstructor(str(published), weights="raw")


@pytest.mark.slow
def test_stage_2_trains_on_a_published_autoencoder_and_samples_it(published, tmp_path):
    config = pipeline.stage2(tmp_path, autoencoder=AutoencoderConfig(pretrained=str(published)))
    stage2.train(config, tmp_path / "stage2")
    path = make_samples(pipeline.sampling(tmp_path, num_images=8), tmp_path / "samples")
    with np.load(path) as samples:
        assert samples["arr_0"].shape == (8, 16, 16, 3)


def test_a_section_with_a_pretrained_autoencoder_holds_nothing_else():
    with pytest.raises(ConfigError, match="statistics must be '' with 'pretrained'"):
        AutoencoderConfig(pretrained="folder", statistics="s.npz")
    with pytest.raises(ConfigError, match="autoencoder.pretrained must be '' here"):
        schema.Stage1Config(autoencoder=AutoencoderConfig(pretrained="folder"))


def test_nothing_is_allocated_for_initial_values():
    config = RAEConfig.read(load_full("")["config"]["RAE-mae-base-p16-ViTXL-n08"])
    decoder = abstract(lambda: ViTDecoder(config.decoder(), dtype=jnp.float32, rngs=nnx.Rngs(0)))
    encoder = encoder_from_config(config.encoder(), dtype=jnp.float32)
    for module in (decoder, encoder):
        shapes = [leaf.get_value() for _, leaf in nnx.to_flat_state(nnx.state(module))]
        assert all(isinstance(shape, jax.ShapeDtypeStruct) for shape in shapes)
