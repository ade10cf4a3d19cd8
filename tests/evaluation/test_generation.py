import copy
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from rae_jax.configuration.schema import (
    ConfigError,
    DataConfig,
    GenerationEvaluationConfig,
    ImagesConfig,
)
from rae_jax.evaluation import generation
from rae_jax.evaluation.features import INCEPTION, Features
from rae_jax.evaluation.frechet import Moments, frechet_distance
from rae_jax.evaluation.generation import evaluate, nearest, score
from rae_jax.evaluation.inception_score import adm_inception_score, inception_score
from rae_jax.evaluation.kernel_distance import kernel_distance
from rae_jax.evaluation.precision_recall import precision_recall
from rae_jax.evaluation.references import SetStatistics
from rae_jax.sampling.save import save_npz
from tests.evaluation.extractors import DIGITS, SIZE, digits, digits_extractor

ALL = ("fid", "sfid", "inception_score", "precision_recall", "kid")
KID = {"subsets": 3, "subset_size": 20}


def statistics(seed, rows=60, width=8, **changes):
    """Of made-up features, with everything that Inception has."""
    noise = np.random.default_rng(seed)
    pooled, spatial, logits = (
        (noise.normal(size=(rows, size)) + 0.3 * seed).astype(np.float32) for size in (width, 5, 7)
    )
    made = SetStatistics(
        f"set {seed}",
        INCEPTION,
        Moments.of(pooled),
        Moments.of(spatial),
        Features(pooled, None, logits),
        rows,
        (32, 32),
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def inception():
    """A network that passes for Inception."""
    made = copy.copy(digits_extractor())
    made.label, made.is_inception = INCEPTION, True
    return made


def test_scores_are_those_of_the_formulas(inception, monkeypatch):
    samples, real = statistics(0), statistics(1)
    monkeypatch.setattr(generation, "_names", lambda extractor, width: ("fid", "kid"))
    result = score(samples, real, inception, metrics=ALL, **KID)
    pair = samples.features.pooled, real.features.pooled
    expected = {
        "fid": frechet_distance(samples.moments, real.moments),
        "sfid": frechet_distance(samples.spatial, real.spatial),
        "inception_score": inception_score(samples.features.logits)[0],
        "inception_score_std": inception_score(samples.features.logits)[1],
        "inception_score_adm": adm_inception_score(samples.features.logits),
        "precision": precision_recall(*pair)[0],
        "recall": precision_recall(*pair)[1],
        "kid": kernel_distance(*pair, **KID)[0],
        "kid_std": kernel_distance(*pair, **KID)[1],
    }
    assert result.scores == expected
    assert list(score(samples, real, inception, metrics=("fid",)).scores) == ["fid"]


@pytest.mark.parametrize(("width", "name"), [(8, "kid_8"), (2048, "kid")])
def test_only_the_features_of_fid_make_fid_and_kid(inception, width, name):
    samples = statistics(0, width=width)
    result = score(samples, samples, inception, metrics=("kid",), **KID)
    assert list(result.scores) == [name, f"{name}_std"]
    light = score(samples, samples, digits_extractor(), metrics=("kid",), **KID)
    assert list(light.scores) == ["kernel_distance", "kernel_distance_std"]


def test_scores_of_another_network_are_never_called_fid(inception):
    light = score(statistics(0), statistics(1), digits_extractor(), metrics=("fid",))
    assert list(light.scores) == ["frechet_distance"]
    assert "not FID" in light.table() and "fid" not in light.table()
    assert list(score(statistics(0), statistics(1), inception, metrics=("fid",)).scores) == [
        "fid_8"
    ]


def test_what_cannot_be_scored_is_left_out_with_a_warning(inception):
    bare = statistics(1, features=None, spatial=None)
    result = score(statistics(0), bare, inception, metrics=ALL)
    assert "precision" not in result.scores and "sfid" not in result.scores
    assert any("the reference holds no features of its images" in w for w in result.warnings)
    assert any(w.startswith("sFID is left out") for w in result.warnings)
    result = score(statistics(0), statistics(1), inception, metrics=("kid",))
    assert result.scores == {}
    assert any("set a smaller kid_subset_size" in w for w in result.warnings)
    few = statistics(0, rows=3)
    result = score(few, few, inception, metrics=("precision_recall", "inception_score"))
    assert any("need over 3 images" in w for w in result.warnings)
    assert any("the Inception Score is left out: it needs 10" in w for w in result.warnings)


@pytest.mark.parametrize(
    ("samples", "reference", "warning"),
    [
        ({}, {"count": 50}, "60 samples are compared with 50 reference images"),
        (
            {},
            {"image_size": (64, 32)},
            "samples have 32 x 32 pixels and the reference images 32 x 64",
        ),
        ({}, {"purpose": "reconstruction"}, "set 1 is a reference for rFID"),
        ({"count": 8}, {}, "set 0: 8 images are fewer than the 9 that a covariance of 8"),
        ({}, {"count": 8}, "set 1: 8 images are fewer than the 9 that a covariance of 8"),
        ({"notes": ("2 of 2 images are JPEG files",)}, {}, "2 of 2 images are JPEG files"),
        ({}, {"count": 0, "image_size": None}, "set 1 does not tell the count, size and purpose"),
        ({"count": 60}, {}, "published scores are of 50,000 samples, these of 60"),
    ],
)
def test_what_is_not_comparable_is_told(inception, samples, reference, warning):
    def warnings(first, second):
        return score(first, second, inception, metrics=("fid",)).warnings

    full = {"count": 50_000}
    quiet = warnings(statistics(0, **full), statistics(1, **full))
    assert quiet == ()
    told = warnings(statistics(0, **samples), statistics(1, **reference))
    assert any(warning in text for text in told)


def test_nearest_rows():
    among = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    points = among[[7, 3]] + np.float32(1e-4)
    found = nearest(points, among, 5)
    distances = np.linalg.norm(points[:, None] - among[None], axis=-1)
    np.testing.assert_array_equal(found, np.argsort(distances, axis=1)[:, :5])
    assert found[:, 0].tolist() == [7, 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 test digits as npz, folder of PNGs, and work folder of samples."""
    folder = tmp_path_factory.mktemp("sets")
    pictures = digits("test", 60)
    np.savez(folder / "samples.npz", arr_0=pictures)
    (folder / "png").mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / "png" / f"{number:06d}.png")
    (folder / "work").mkdir()
    (folder / "work/config.json").write_text('{"kind": "samples", "config": {}}')
    save_npz(folder / "work/samples.npz", [pictures], np.zeros(60, np.int64))
    return folder


def config(path, **changes):
    digit_data = DataConfig(source="digits", split="test", image_size=SIZE, crop="none")
    made = GenerationEvaluationConfig(
        samples=ImagesConfig(path=str(path)),
        reference=ImagesConfig(data=digit_data),
        extractor=DIGITS,
        metrics=("fid", "precision_recall", "kid"),
        kid_subsets=2,
        kid_subset_size=50,
        pictured=3,
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(autouse=True)
def one_compilation(monkeypatch):
    monkeypatch.setattr(generation, "make_extractor", lambda config: digits_extractor())


def test_every_kind_of_set_gives_the_same_scores(folder, tmp_path):
    results = [
        evaluate(config(folder / name), tmp_path / name) for name in ("samples.npz", "png", "work")
    ]
    assert results[0].scores == results[1].scores == results[2].scores
    assert results[0].scores["frechet_distance"] > 0
    note = json.loads((tmp_path / "png/scores.json").read_text())
    assert note["scores"] == results[1].scores
    assert note["extractor"].endswith("not FID")
    assert note["sets"]["samples"]["count"] == 60
    assert note["sets"]["samples"]["image_size"] == [SIZE, SIZE]
    assert note["settings"]["kid"] == {"subsets": 2, "subset_size": 50}
    assert {"rae_jax", "jax", "numpy", "python"} <= note["versions"].keys()
    assert "60 samples are compared with 360 reference images" in note["warnings"][0]
    table = results[0].table().splitlines()
    assert table[0].split()[0] == "frechet_distance"
    assert f"samples: {folder / 'samples.npz'}, 60 images, 48 x 48 pixels" in table


def test_neighbours_of_real_images_are_themselves(folder, tmp_path):
    evaluate(config(folder / "samples.npz", metrics=("fid",)), tmp_path)
    with Image.open(tmp_path / "neighbours.png") as image:
        picture = np.asarray(image)
    step = SIZE + 2
    left = 2 + step + 2  # Of the white line between samples and neighbours.
    assert picture.shape == (2 + 3 * step, left + 2 + 2 + 7 * step, 3)
    assert (picture[:, left - 2 : left + 2] == 255).all()
    rows = np.delete(picture, np.s_[left - 2 : left + 4], axis=1)[2:, 2:]
    cells = rows.reshape(3, step, 8, step, 3).transpose(0, 2, 1, 3, 4)[:, :, :SIZE, :SIZE]
    np.testing.assert_array_equal(cells[:, 0], digits("test", 60)[[0, 29, 59]])
    np.testing.assert_array_equal(cells[:, 0], cells[:, 1])
    assert (cells[:, 1] != cells[:, 2]).any(axis=(1, 2, 3)).all()


def test_the_same_images_are_at_no_distance(folder, tmp_path):
    same = ImagesConfig(path=str(folder / "png"))
    result = evaluate(config(folder / "samples.npz", reference=same, pictured=0), tmp_path)
    assert result.scores["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert (result.scores["precision"], result.scores["recall"]) == (1, 1)
    assert not (tmp_path / "neighbours.png").exists()


def test_samples_of_a_checkpoint(folder, tmp_path, monkeypatch):
    made = []

    def make_samples(config, workdir):
        made.append((config.checkpoint, workdir))
        return folder / "samples.npz"

    monkeypatch.setattr(generation, "make_samples", make_samples)
    settings = config("unused.npz", metrics=("fid",), pictured=0)
    sampling = dataclasses.replace(settings.sampling, checkpoint="runs/stage2")
    result = evaluate(dataclasses.replace(settings, sampling=sampling), tmp_path)
    assert made == [("runs/stage2", tmp_path / "samples")]
    assert (
        result.scores == evaluate(config(folder / "png", metrics=("fid",)), tmp_path / "b").scores
    )


def test_unknown_metrics_are_told():
    with pytest.raises(ConfigError, match=r"metrics must be some of \('fid', 'sfid', "):
        GenerationEvaluationConfig(metrics=("fid", "clip"))
    with pytest.raises(ConfigError, match="kid_subset_size must be at least 2"):
        GenerationEvaluationConfig(kid_subset_size=1)
