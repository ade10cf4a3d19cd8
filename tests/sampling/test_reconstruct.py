import numpy as np
import pytest
from PIL import Image

from rae_jax.configuration.schema import ReconstructionConfig
from rae_jax.data.sources.digits import Digits
from rae_jax.data.sources.image_folder import read_image
from rae_jax.sampling.reconstruct import Reconstructor, reconstruct_files


@pytest.fixture(scope="module")
def reconstruct(runs):
    return Reconstructor(str(runs / "stage1"), batch_size=4)


@pytest.fixture(scope="module")
def digits():
    source = Digits("test", image_size=48)
    return np.stack([source[index]["image"] for index in range(6)])


def config_for(runs, path, **changes):
    return ReconstructionConfig(
        checkpoint=str(runs / "stage1"), input=str(path), batch_size=4, **changes
    )


def test_each_image_is_reconstructed_for_itself(reconstruct, digits):
    pictures = reconstruct(digits)
    assert reconstruct.image_size == 48
    assert pictures.shape == digits.shape
    # Six images take two batches of four, the second filled up.
    np.testing.assert_array_equal(reconstruct(digits[2:])[:2], pictures[2:4])
    np.testing.assert_array_equal(reconstruct(digits[[5, 0, 5, 3]])[[0, 2]], pictures[[5, 5]])
    assert np.any(pictures[0] != pictures[1])


def test_averaged_and_last_weights_differ(runs, reconstruct, digits):
    raw = Reconstructor(str(runs / "stage1"), weights="raw", batch_size=4)
    assert np.any(raw(digits[:4]) != reconstruct(digits[:4]))


def test_a_folder_becomes_a_folder_of_the_same_shape(runs, reconstruct, digits, tmp_path):
    for name, image in zip(("a/1.png", "a/2.jpg", "b/1.png"), digits, strict=False):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    out = reconstruct_files(config_for(runs, tmp_path / "in"), tmp_path / "out")
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert found == ["a/1.png", "a/2.png", "b/1.png", "side_by_side.png"]
    expected = reconstruct(digits[[0, 2, 0, 2]])
    np.testing.assert_array_equal(read_image(out / "a/1.png"), expected[0])
    np.testing.assert_array_equal(read_image(out / "b/1.png"), expected[1])
    # Originals over reconstructions, in lines of two pixels.
    picture = read_image(out / "side_by_side.png")
    assert picture.shape == (2 * 50 + 2, 3 * 50 + 2, 3)
    np.testing.assert_array_equal(picture[2:50, 2:50], digits[0])
    np.testing.assert_array_equal(picture[52:100, 2:50], expected[0])


@pytest.mark.parametrize("crop", ["center", "squash"])
def test_a_single_image_of_any_size_is_cut_or_squashed(runs, tmp_path, crop):
    # Only the middle is white.
    image = np.zeros((60, 180, 3), np.uint8)
    image[:, 60:120] = 255
    Image.fromarray(image).save(tmp_path / "wide.png")
    config = config_for(runs, tmp_path / "wide.png", crop=crop)
    out = reconstruct_files(config, tmp_path / "out")
    assert read_image(out / "wide.png").shape == (48, 48, 3)
    prepared = read_image(out / "side_by_side.png")[2:50, 2:50]
    # All of the square, or its middle third.
    assert abs(prepared.mean() / 255 - (1 if crop == "center" else 1 / 3)) < 0.02


def test_images_that_would_become_one_file_are_refused(runs, tmp_path, digits):
    for name in ("1.png", "1.jpg"):
        Image.fromarray(digits[0]).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"several images of .* would become 1\.png"):
        reconstruct_files(config_for(runs, tmp_path), tmp_path / "out")


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"checkpoint": ""}, ValueError, "set --config.checkpoint to the work folder"),
        ({"input": ""}, ValueError, "set --config.input to an image or a folder"),
        ({"input": "{tmp}/none"}, FileNotFoundError, "none"),
        ({"input": "{tmp}/empty"}, ValueError, "no images in"),
        ({"input": "{tmp}/text.png"}, ValueError, "cannot read image .*text.png"),
        ({"checkpoint": "{runs}/stage2"}, ValueError, "must hold a run of stage1, it holds"),
    ],
)
def test_wrong_settings_are_refused(runs, tmp_path, digits, changes, error, message):
    Image.fromarray(digits[0]).save(tmp_path / "image.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("hello")
    settings = {"checkpoint": str(runs / "stage1"), "input": str(tmp_path / "image.png")}
    settings |= {name: value.format(runs=runs, tmp=tmp_path) for name, value in changes.items()}
    with pytest.raises(error, match=message):
        reconstruct_files(ReconstructionConfig(**settings), tmp_path / "out")
