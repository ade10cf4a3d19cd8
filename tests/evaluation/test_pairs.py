import copy
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from rae_jax.configuration.schema import (
    DataConfig,
    ImagesConfig,
    ReconstructionEvaluationConfig,
)
from rae_jax.evaluation import reconstruction
from rae_jax.evaluation.features import INCEPTION
from rae_jax.evaluation.frechet import Moments, frechet_distance
from rae_jax.evaluation.images import from_npz
from rae_jax.evaluation.reconstruction import PairCollector, evaluate, make_measures, psnr
from rae_jax.evaluation.references import SetStatistics, compute
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from tests.evaluation.extractors import DIGITS, SIZE, digits, digits_extractor

COUNT = 70
METRICS = ("psnr", "ssim", "rfid")


def worse(images):
    noise = np.random.default_rng(0).integers(-20, 20, images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pair():
    originals = digits("test", COUNT)
    return originals, worse(originals)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pair):
    folder = tmp_path_factory.mktemp("pairs")
    for name, images in zip(("originals", "made"), pair, strict=True):
        np.savez(folder / f"{name}.npz", arr_0=images)
        (folder / name).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{number:03d}.png")
    return folder


@pytest.fixture(autouse=True)
def one_compilation(monkeypatch):
    monkeypatch.setattr(reconstruction, "make_extractor", lambda config: digits_extractor())


def config(originals, made, **changes):
    settings = ReconstructionEvaluationConfig(
        originals=ImagesConfig(path=str(originals)), reconstructions=str(made), extractor=DIGITS
    )
    return dataclasses.replace(settings, **changes)


def test_scores_are_those_of_the_formulas(pair):
    originals, made = pair
    collector = PairCollector(make_measures(METRICS), digits_extractor())
    for start in (0, 64, 20):
        index = np.arange(start, {0: 20, 20: 64, 64: COUNT}[start])
        collector.add(index, originals[index], made[index])
    values = collector.values()
    np.testing.assert_array_equal(values["psnr"], psnr(made, originals))
    ssim = make_measures(("ssim",))["ssim"](made, originals)
    np.testing.assert_array_equal(values["ssim"], ssim)
    result = collector.result("digits")
    first, second = (Moments.of(digits_extractor()(images).pooled) for images in (made, originals))
    expected = {
        "psnr": psnr(made, originals).mean(),
        "ssim": ssim.mean(),
        "reconstruction_frechet_distance": frechet_distance(first, second),
    }
    assert result.scores == pytest.approx(expected, rel=1e-9)
    assert result.settings == {"pairs": COUNT}
    assert result.sets["reconstructions"]["name"] == "reconstructions of digits"


def test_a_number_of_images_that_no_published_rfid_has(pair):
    passing = copy.copy(digits_extractor())
    passing.label, passing.is_inception = INCEPTION, True
    collector = PairCollector({}, passing)
    collector.add(np.arange(COUNT), *pair)
    result = collector.result("digits")
    assert list(result.scores) == ["rfid_64"]
    assert "published scores are of 50,000 reconstructions, these of 70" in result.warnings[0]


def test_without_a_network(pair):
    collector = PairCollector(make_measures(("psnr",)))
    collector.add(np.arange(COUNT), *pair)
    result = collector.result("digits", ("a note",))
    assert list(result.scores) == ["psnr"]
    assert (result.extractor, result.warnings) == ("", ("a note",))


@pytest.mark.parametrize(
    ("first", "second"), [("originals", "made"), ("originals.npz", "made.npz")]
)
def test_pairs_of_folders_and_files(folder, tmp_path, pair, first, second):
    result = evaluate(config(folder / first, folder / second, pictured=4), tmp_path)
    assert result.scores["psnr"] == psnr(pair[1], pair[0]).mean()
    assert result.warnings == ()
    note = json.loads((tmp_path / "scores.json").read_text())
    assert note["scores"] == result.scores
    with Image.open(tmp_path / "pairs.png") as image:
        picture = np.asarray(image)
    step = SIZE + 2
    assert picture.shape == (2 + 2 * step, 2 + 4 * step, 3)
    # Spread evenly over the set.
    for column, number in enumerate((0, 23, 46, 69)):
        for row, images in enumerate(pair):
            top, left = 2 + row * step, 2 + column * step
            shown = picture[top : top + SIZE, left : left + SIZE]
            np.testing.assert_array_equal(shown, images[number])


def test_an_autoencoder_makes_the_reconstructions(tmp_path, monkeypatch):
    class Negative(AutoencoderRAE):
        image_size = SIZE

        def __init__(self):
            pass

        def __call__(self, images):
            return 1 - images

    def load(checkpoint, **source):
        assert (checkpoint, source) == ("runs/stage1", {"weights": "raw"})
        return Negative()

    monkeypatch.setattr(reconstruction, "load_autoencoder", load)
    data = DataConfig(source="digits", split="test", image_size=SIZE, crop="none")
    settings = ReconstructionEvaluationConfig(
        originals=ImagesConfig(data=data),
        checkpoint="runs/stage1",
        weights="raw",
        metrics=("psnr",),
        pictured=0,
    )
    images = digits("test", 360)
    assert evaluate(settings, tmp_path).scores["psnr"] == psnr(255 - images, images).mean()
    Negative.image_size = 64
    with pytest.raises(ValueError, match="takes images of 64 x 64 pixels, the originals have 48"):
        evaluate(settings, tmp_path / "other")


def test_a_reference_in_place_of_the_originals(folder, tmp_path, pair):
    extract = digits_extractor()
    for purpose in ("reconstruction", "generation"):
        statistics = compute(
            from_npz(folder / "originals.npz"), extract, keep=False, purpose=purpose
        )
        statistics.save(tmp_path / f"{purpose}.npz")
    own = evaluate(config(folder / "originals", folder / "made"), tmp_path / "own")
    paths = (str(tmp_path / f"{name}.npz") for name in ("reconstruction", "generation"))
    settings = [config(folder / "originals", folder / "made", reference=path) for path in paths]
    right, mixed = (evaluate(one, tmp_path / str(n)) for n, one in enumerate(settings))
    assert right.scores == mixed.scores == own.scores
    assert right.warnings == ()
    assert "is a reference for gFID (training images); rFID compares with" in mixed.warnings[0]
    foreign = SetStatistics("others", "another network", Moments(np.zeros(3), np.eye(3)))
    with pytest.raises(ValueError, match="others holds statistics of the network 'another"):
        PairCollector(make_measures(METRICS), extract, foreign)


def test_what_are_no_pairs(folder, tmp_path):
    np.savez(tmp_path / "few.npz", arr_0=digits("test", 5))
    np.savez(tmp_path / "small.npz", arr_0=digits("test", COUNT)[:, ::2, ::2])
    originals = folder / "originals"
    with pytest.raises(ValueError, match="must have the same number of images; .* has 70, .* 5"):
        evaluate(config(originals, tmp_path / "few.npz"), tmp_path / "runs")
    with pytest.raises(ValueError, match=r"must have images of one height and width; .*\(24, 24\)"):
        evaluate(config(originals, tmp_path / "small.npz"), tmp_path / "runs")
    others = tmp_path / "others"
    others.mkdir()
    for path in sorted((folder / "made").iterdir()):
        (others / f"x{path.name}").symlink_to(path)
    with pytest.raises(ValueError, match="called alike to be pairs; .* has 000 where .* has x000"):
        evaluate(config(originals, others), tmp_path / "runs")
    with pytest.raises(ValueError, match="set --config.reconstructions to the reconstructions, or"):
        evaluate(config(originals, ""), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_autoencoders_without_a_fixed_size_say_what_they_divide():
    class Halving:
        def latent_shape(self, image_size):
            if image_size % 2:
                raise ValueError(f"odd: {image_size}")
            return image_size // 2, image_size // 2, 4

    reconstruction._require_size("name", Halving(), (8, 6))
    with pytest.raises(ValueError, match="odd: 7"):
        reconstruction._require_size("name", Halving(), (8, 7))
