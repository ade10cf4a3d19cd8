"""What cannot be converted is told, all of it at once, and leaves nothing behind."""

import dataclasses
import re

import numpy as np
import pytest

from rae_jax.checkpointing.experiment import checkpoint_folder
from rae_jax.checkpointing.partial_restore import read_arrays
from rae_jax.configuration import defaults
from rae_jax.configuration.errors import ConfigError
from rae_jax.configuration.schema import Stage1Config, Stage2Config, as_dict
from rae_jax.porting import importing, models
from rae_jax.porting.models import of_kind
from rae_jax.weights import convert as weights_convert
from rae_jax.weights.convert import WeightError
from rae_jax.weights.errors import WeightFileError
from rae_jax.weights.registry import KINDS
from rae_jax.weights.torch_files import write_torch
from tests import pipeline
from tests.models.compiled import filled
from tests.porting.test_round_trips import ENCODER, convert, export

GRID, WIDTH = 3, 64
"""Of the latents of the digits' encoder."""


def entries(kind, config, latent_shape=(GRID, GRID, WIDTH)):
    module = filled(of_kind(kind, config, latent_shape).make)
    table = KINDS[kind].table(module)
    return weights_convert.export(table, module) | KINDS[kind].constructed(module)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A decoder and a denoiser as published files."""
    folder = tmp_path_factory.mktemp("published")
    write_torch(folder / "model.pt", entries("decoder", pipeline.stage1()))
    write_torch(folder / "stage2_model.pt", entries("dit_dh", pipeline.stage2(folder)))
    shape = (WIDTH, GRID, GRID)
    statistics = {"mean": np.zeros(shape, np.float32), "var": np.ones(shape, np.float32)}
    write_torch(folder / "stat.pt", statistics)
    return folder


def decoder(folder, name="model.pt", **changes):
    request = {"source": folder / name, "config": as_dict(pipeline.stage1())} | changes
    return convert(kind="decoder", output=folder / "new", **request)


def denoiser(folder, **changes):
    request = {"source": folder / "stage2_model.pt", "config": as_dict(pipeline.stage2(folder))}
    return convert(**({"kind": "dit_dh", "output": folder / "new"} | request | changes))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"kind": "", "output": "x"}, "--kind is missing"),
        ({"kind": "decoder", "output": "x", "source": ""}, "--source is missing"),
        ({"kind": "decoder", "output": ""}, "--output is missing"),
        ({"kind": "decoderr", "output": "x"}, "unknown --kind=decoderr: did you mean 'decoder'?"),
        (
            {"kind": "encoder", "output": "x", "model": "vit_b"},
            "--model is not read for --kind=enc",
        ),
        ({"kind": "statistics", "output": "x", "config": {"a": 1}}, "--config is not read for"),
        ({"kind": "decoder", "output": "x", "statistics": "s"}, "--statistics is not read for"),
    ],
)
def test_flags_that_do_not_fit_together(folder, request_, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        convert(**({"source": folder / "model.pt"} | request_))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": None}, "either --config, .* or --model, a published size; neither is given"),
        ({"model": "vit_b"}, "either --config, .* or --model, .* both are given"),
        ({"config": None, "model": "vitb"}, "--model=vitb is no published decoder: did you mean"),
        ({"config": None, "model": "dit_dh_s"}, "--model=dit_dh_s is no published decoder: "),
        ({"config": None, "model": "vit_b"}, "--encoder is missing; name the encoder that the"),
        ({"config": {"sed": 1}}, "unknown key 'sed' in Stage1Config: did you mean 'seed'?"),
        ({"weights": "best"}, "model.pt: it holds no weights 'best'; there are: all"),
    ],
)
def test_options_of_decoders(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        decoder(folder, **changes)
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"config": None, "model": "dit_dh_s"},
            "--autoencoder is missing; name the work folder of",
        ),
        (
            {"config": as_dict(Stage2Config(denoiser=defaults.DENOISERS["lightning_dit_b"]))},
            "--config is of a denoiser of kind 'lightning_dit', but --kind=dit_dh",
        ),
        ({"autoencoder": "./absent"}, "'./absent' is neither a folder, nor a hub repository"),
    ],
)
def test_options_of_denoisers(folder, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        denoiser(folder, **changes)
    assert not (folder / "new").exists()


def test_every_mismatch_of_both_sets_is_listed_and_nothing_is_written(folder):
    good = entries("decoder", pipeline.stage1())
    raw = {key: value for key, value in good.items() if key != "decoder_norm.bias"}
    raw["decoder_norm.weight"] = np.full_like(good["decoder_norm.weight"], np.nan)
    ema = good | {"extra": np.zeros(2, np.float32)}
    ema["decoder_pred.bias"] = np.full_like(good["decoder_pred.bias"], np.inf)
    write_torch(folder / "bad.pt", {"model": raw, "ema": ema})
    with pytest.raises(WeightError) as error:
        decoder(folder, "bad.pt")
    assert str(error.value).splitlines() == [
        "4 mismatches between file and model:",
        "  ema: entry decoder_pred.bias holds NaN or Inf (as float32)",
        "  ema: surplus entry extra (2,)",
        "  raw: entry decoder_norm.weight holds NaN or Inf (as float32)",
        "  raw: missing entry decoder_norm.bias (16,) (for norm.bias)",
    ]
    assert not (folder / "new").exists()


def test_what_is_not_trained_must_be_the_same_in_both_sets(folder):
    raw = entries("dit_dh", pipeline.stage2(folder))
    for factor in (1.01, 1 + 1e-6):
        ema = raw | {"t_embedder.W": raw["t_embedder.W"] * np.float32(factor)}
        write_torch(folder / "both.pt", {"model": raw, "ema": ema})
        request = {"source": folder / "both.pt", "config": as_dict(unconnected(folder))}
        if factor == 1.01:
            message = "t_embedder.W is another one in each set .* choose one set with --weights"
            with pytest.raises(WeightError, match=message):
                denoiser(folder, **request)
        else:
            denoiser(folder, **(request | {"output": folder / "rounded"}))
    kept = read_arrays(checkpoint_folder(folder / "rounded"), 0)
    np.testing.assert_array_equal(kept["buffers.time_embedding.frequencies"], ema["t_embedder.W"])


def unconnected(folder):
    """A denoiser on features, so that it needs no decoder and no statistics."""
    config = pipeline.stage2(folder)
    section = dataclasses.replace(config.autoencoder, checkpoint="", statistics="")
    return dataclasses.replace(config, autoencoder=section)


def test_entries_that_are_not_finite_are_found_though_all_else_fits(folder):
    good = entries("decoder", pipeline.stage1())
    for key in ("decoder_norm.bias", "decoder_pred.bias"):
        good[key] = np.full_like(good[key], np.nan)
    write_torch(folder / "nan.pt", good)
    with pytest.raises(WeightError, match="(?s)^2 mismatches.*norm.bias holds.*pred.bias holds"):
        decoder(folder, "nan.pt")
    assert sorted(path.name for path in folder.glob("new*")) == []


def test_a_damaged_element_is_found(folder):
    content = bytearray((folder / "model.pt").read_bytes())
    published = entries("decoder", pipeline.stage1())["decoder_pred.weight"]
    content[content.index(published.tobytes()) + 5] ^= 1
    (folder / "damaged.pt").write_bytes(content)
    with pytest.raises(WeightFileError, match="damaged.pt is damaged in archive/data/"):
        decoder(folder, "damaged.pt")


def test_heads_that_no_shape_tells_are_told_by_the_rotary_tables(folder):
    config = pipeline.stage2(folder)
    wrong = dataclasses.replace(config.denoiser, backbone_num_heads=4)
    with pytest.raises(WeightError) as error:
        denoiser(folder, config=as_dict(dataclasses.replace(config, denoiser=wrong)), dry_run=True)
    assert str(error.value).splitlines()[1:] == [
        f"  entry enc_feat_rope.freqs_{part} (9, 8) is not the table of rotary positions (9, 4) "
        "of these sizes; check the number of heads"
        for part in ("cos", "sin")
    ]


def test_sizes_that_do_not_fit(folder):
    config = pipeline.stage1()
    for name, value, message in (
        (
            "hidden_size",
            32,
            r"decoder_embed.weight has shape \(16, 64\), the model wants \(32, 64\)",
        ),
        ("depth", 2, "missing entry decoder_layers.1.attention.attention.key.bias"),
        ("patch_size", 8, "the decoder gives images of 24 pixels, but data.image_size is 48"),
    ):
        section = dataclasses.replace(config.autoencoder.decoder, **{name: value})
        autoencoder = dataclasses.replace(config.autoencoder, decoder=section)
        changed = as_dict(dataclasses.replace(config, autoencoder=autoencoder))
        with pytest.raises(ValueError, match=message):
            decoder(folder, config=changed)


def test_another_encoder_or_input_size_is_told(folder):
    config = pipeline.stage1()
    encoder = dataclasses.replace(config.autoencoder.encoder, input_size=64)
    autoencoder = dataclasses.replace(config.autoencoder, encoder=encoder)
    with pytest.raises(WeightError, match="a grid of 3x3 latents, but .* 4x4; set it to 48"):
        decoder(folder, config=as_dict(dataclasses.replace(config, autoencoder=autoencoder)))
    write_torch(folder / "wide.pt", entries("decoder", config, (GRID, GRID, 32)))
    with pytest.raises(WeightError, match="for latents of 32 channels, but the encoder gives 64"):
        decoder(folder, "wide.pt")


def test_outputs_that_are_there_are_left_alone(folder):
    (folder / "there").mkdir()
    for kind in ("decoder", "statistics", "encoder", "autoencoder"):
        with pytest.raises(FileExistsError, match="there is there already; name another"):
            convert(kind=kind, source=folder / "model.pt", output=folder / "there")
        with pytest.raises(FileExistsError, match="there.pt is there already|there is there"):
            (folder / "there.pt").touch()
            suffix = "" if kind in ("encoder", "autoencoder") else ".pt"
            export(kind, folder, folder / f"there{suffix}")
    assert not list((folder / "there").iterdir())


def test_what_does_not_verify_is_removed(folder, monkeypatch):
    read = importing.workdirs.read

    def altered(*arguments):
        module = read(*arguments)
        module.norm.bias[...] = module.norm.bias[...].at[0].add(1)
        return module

    monkeypatch.setattr(importing.workdirs, "read", altered)
    message = r"not bit for bit .*model.pt, and was removed:\n  decoder_norm.bias differs$"
    with pytest.raises(WeightError, match=message):
        decoder(folder)
    assert not list(folder.glob("new*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mean": np.zeros((2, 3, 3), np.float32)}, r"missing entry var \(2, 3, 3\)"),
        (
            {"mean": np.zeros((2, 3, 3), np.float32), "var": np.ones((2, 3), np.float32)},
            r"entry var has shape \(2, 3\), the model wants \(2, 3, 3\)",
        ),
        (
            {"mean": np.zeros((2, 3, 3), np.float32), "var": -np.ones((2, 3, 3), np.float32)},
            "holds variances below 0",
        ),
        ({"mean": np.zeros(2, np.float32)}, r"must hold mean and var .* it holds mean \(2,\)"),
        ({"x": np.zeros(2, np.float32)}, r"must hold mean and var .* it holds x \(2,\)"),
        (
            {
                "mean": np.full((2, 3, 3), np.nan, np.float32),
                "var": np.ones((2, 3, 3), np.float32),
            },
            "entry mean holds NaN",
        ),
    ],
)
def test_statistics_that_are_none(tmp_path, content, message):
    write_torch(tmp_path / "stat.pt", content)
    with pytest.raises(WeightError, match=message):
        convert(kind="statistics", source=tmp_path / "stat.pt", output=tmp_path / "new.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["stat.pt"]


def test_statistics_of_another_encoder(tmp_path):
    shape = (32, 3, 3)
    content = {"mean": np.zeros(shape, np.float32), "var": np.ones(shape, np.float32)}
    write_torch(tmp_path / "stat.pt", content)
    request = {"kind": "statistics", "source": tmp_path / "stat.pt", "output": tmp_path / "n.npz"}
    with pytest.raises(WeightError, match="for latents of 32 channels, but the encoder gives 64"):
        convert(**request, encoder=ENCODER)
    convert(**request)


def test_published_sizes_take_the_rest_from_the_file(tmp_path, monkeypatch):
    small = dataclasses.replace(pipeline.stage1().autoencoder.decoder, patch_size=16)
    monkeypatch.setitem(models.PRESETS, "small", small)
    config = pipeline.stage1()
    changed = dataclasses.replace(
        config,
        autoencoder=dataclasses.replace(
            config.autoencoder, decoder=dataclasses.replace(small, patch_size=4)
        ),
    )
    write_torch(tmp_path / "model.pt", entries("decoder", changed, (5, 5, WIDTH)))
    convert(
        kind="decoder",
        source=tmp_path / "model.pt",
        output=tmp_path / "decoder",
        model="small",
        encoder=ENCODER,
    )
    noted = importing.workdirs.describe(tmp_path / "decoder", "decoder").config
    assert isinstance(noted, Stage1Config)
    assert noted.autoencoder.decoder.patch_size == 4
    assert noted.autoencoder.encoder.input_size == 80
    assert noted.data.image_size == 20


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("", "a", "b.pt"), {}, "--kind is missing"),
        (("decoder", "", "b.pt"), {}, "--source is missing"),
        (("decoder", "a", ""), {}, "--output is missing"),
        (("dit", "a", "b.pt"), {}, "unknown --kind=dit: did you mean 'dit_dh'?"),
        (("decoder", "a", "b.bin"), {}, "--output=b.bin must end in .pt or .safetensors"),
        (("decoder", "a", "b.safetensors"), {"weights": "both"}, "must end in .pt"),
        (("decoder", "a", "b.pt"), {"weights": "best"}, "--weights must be one of ('ema', 'raw', "),
        (("encoder", "a", "b"), {"weights": "both"}, "--weights must be one of ('ema', 'raw') for"),
        (("decoder", "a", "b.pt"), {"statistics": "s"}, "--statistics is not read for --kind=dec"),
        (("decoder", "absent", "b.pt"), {}, "absent; give the --workdir of a run"),
        (("statistics", "absent", "b.pt"), {}, "no latent statistics at absent"),
    ],
)
def test_exports_that_cannot_be(tmp_path, monkeypatch, arguments, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        export(*arguments, **options)
    assert not list(tmp_path.iterdir())


def test_runs_of_another_kind_are_not_exported(runs, tmp_path):
    for kind, stage, message in (
        ("decoder", "stage2", "must hold a run of stage1, it holds one of stage2"),
        ("dit_dh", "stage1", "must hold a run of stage2, it holds one of stage1"),
        ("lightning_dit", "stage2", "the denoiser in .* is a dit_dh, but --kind=lightning_dit"),
    ):
        with pytest.raises(ValueError, match=message):
            export(kind, runs / stage, tmp_path / "new.pt")
    assert not list(tmp_path.iterdir())
