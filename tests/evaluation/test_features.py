import jax
import numpy as np
import pytest
import safetensors.numpy

from rae_jax.configuration.schema import ConfigError, EncoderConfig, ExtractorConfig
from rae_jax.evaluation.features import (
    INCEPTION,
    PUBLISHED_FILE,
    Extractor,
    encoder,
    inception,
    make_extractor,
)
from rae_jax.weights import torch_files
from tests.comparison import load_case
from tests.evaluation.extractors import (
    DIGITS,
    digits,
    digits_extractor,
    inception_entries,
    rounded_pictures,
)


@pytest.fixture(scope="module")
def images():
    return digits("test", 20)


@pytest.fixture(scope="module")
def features(images):
    return digits_extractor()(images).pooled


def test_features_are_the_same_bits_however_the_images_are_cut(images, features):
    extract = digits_extractor()
    for cuts in ([1], [16], [3, 4, 19]):
        parts = [extract(part).pooled for part in np.split(images, cuts)]
        np.testing.assert_array_equal(np.concatenate(parts), features)


def test_features_are_the_same_bits_on_eight_devices(images, features):
    assert digits_extractor(16, 8).chunk == 128
    np.testing.assert_array_equal(digits_extractor(16, 8)(images).pooled, features)


def test_rows_per_device_move_features_by_rounding_alone(images, features):
    other = digits_extractor(3)(images).pooled
    np.testing.assert_allclose(other, features, rtol=0, atol=1e-6 * np.abs(features).max())


def test_features_belong_to_their_images(images, features):
    order = np.random.default_rng(0).permutation(len(images))
    np.testing.assert_array_equal(digits_extractor()(images[order]).pooled, features[order])
    distances = np.abs(features[:, None] - features[None]).max(axis=-1)
    assert (distances + np.eye(len(images)) > 0).all()


def test_the_light_network_is_never_inception(features):
    extract = make_extractor(DIGITS)
    assert not extract.is_inception
    assert extract.label.startswith("mean token of builtin:digits_mae at 48 pixels (")
    assert extract.label.endswith("not FID")
    assert features.shape == (20, 64) and features.dtype == np.float32


def test_no_images_have_no_features(images):
    with pytest.raises(ValueError, match="at least one image"):
        digits_extractor()(images[:0])


def test_the_arrays_of_the_network_are_no_constants():
    extract = Extractor(
        "sum",
        lambda arrays, images: {"features": arrays["x"] + 0},
        {"x": np.ones((2, 3), np.float32)},
        rows=2,
        devices=jax.devices()[:1],
    )
    np.testing.assert_array_equal(extract(np.zeros((2, 4, 4, 3), np.uint8)).pooled, np.ones((2, 3)))


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("", ValueError, f"the weights of Inception, {PUBLISHED_FILE}, are not set: "),
        ("absent.pth", FileNotFoundError, f"no file absent.pth, which must be {PUBLISHED_FILE}, "),
    ],
)
def test_missing_weights_are_told_with_their_publisher(weights, error, message):
    with pytest.raises(error) as caught:
        make_extractor(ExtractorConfig(weights=weights))
    told = str(caught.value)
    assert told.startswith(message)
    for part in (PUBLISHED_FILE, "mseitzer/pytorch-fid", "toshas/torch-fidelity"):
        assert part in told
    assert "--config.extractor.weights" in told and "--config.extractor.kind=encoder" in told


def test_other_weights_are_told(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"conv.weight": np.zeros((2, 2), np.float32)}, path)
    with pytest.raises(ValueError, match=f"other.safetensors is not {PUBLISHED_FILE}: "):
        inception(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        encoder(EncoderConfig(path="absent", input_size=48))


def test_settings_of_the_other_kind_are_errors():
    with pytest.raises(ConfigError, match="weights must be '' for kind 'encoder'"):
        ExtractorConfig(kind="encoder", encoder=DIGITS.encoder, weights="x.pth")
    with pytest.raises(ConfigError, match="encoder must be .* for kind 'inception'"):
        ExtractorConfig(encoder=DIGITS.encoder)
    with pytest.raises(ConfigError, match="encoder must name a path"):
        ExtractorConfig(kind="encoder")


@pytest.fixture(scope="module")
def case():
    return load_case("inception_fid")


@pytest.fixture(scope="module")
def weights(case, tmp_path_factory):
    """The weights of the case in a file like the published one."""
    path = tmp_path_factory.mktemp("inception") / PUBLISHED_FILE
    torch_files.write_torch(path, inception_entries(case))
    return path


@pytest.fixture(scope="module")
def published(weights):
    return inception(weights, rows=2, devices=jax.devices()[:1])


def test_inception_by_file_gives_the_published_features(case, published):
    name = "images_64x64"
    features = published(rounded_pictures(case, name))
    case.assert_close(f"{name}.2048", features.pooled)
    case.assert_close(f"{name}.spatial", features.spatial)
    case.assert_close(f"{name}.logits_unbiased", features.logits)
    assert published.label == INCEPTION and published.is_inception
    assert "not bit for bit the published" in published.notes[0]


@pytest.mark.slow
def test_inception_on_several_devices_gives_the_same_bits(case, weights, published):
    images = rounded_pictures(case, "images_64x64")
    images = np.concatenate([images, images[:1]])
    several = inception(weights, rows=2, devices=jax.devices()[:3])(images)
    single = published(images)
    for first, second in zip(vars(several).values(), vars(single).values(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [64, 192, 768])
def test_other_layers_are_told_apart(case, weights, layer):
    extract = inception(weights, layer=layer, rows=2, devices=jax.devices()[:1])
    name = "images_64x64"
    case.assert_close(f"{name}.{layer}", extract(rounded_pictures(case, name)).pooled)
    assert extract.label == f"{INCEPTION}, {layer} features"
