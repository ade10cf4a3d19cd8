import numpy as np
import pytest
from PIL import Image

from rae_jax.sampling.save import open_images, save_npz, save_pngs

IMAGES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


def test_npz_has_the_layout_of_the_evaluation_suite(tmp_path):
    path = tmp_path / "out" / "samples.npz"
    save_npz(path, [IMAGES[:1], IMAGES[1:]], np.array([3, 5], np.int32))
    with np.load(path) as arrays:
        assert sorted(arrays) == ["arr_0", "arr_1"]
        np.testing.assert_array_equal(arrays["arr_0"], IMAGES)
        assert arrays["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["arr_1"], [3, 5])
        assert arrays["arr_1"].dtype == np.int64
    assert [entry.name for entry in path.parent.iterdir()] == ["samples.npz"]


def test_npz_needs_its_ending(tmp_path):
    with pytest.raises(ValueError, match="must end in .npz, got 'samples'"):
        save_npz(tmp_path / "samples", [IMAGES], np.zeros(2, np.int32))


def test_npz_needs_a_label_for_each_image(tmp_path):
    with pytest.raises(ValueError, match="one label per image, got 3 for 2"):
        save_npz(tmp_path / "samples.npz", [IMAGES], np.zeros(3, np.int32))
    assert list(tmp_path.iterdir()) == []


def test_images_of_an_npz_are_read_where_they_lie(tmp_path):
    path = tmp_path / "samples.npz"
    save_npz(path, [IMAGES], np.zeros(2, np.int32))
    images = open_images(path)
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable
    np.testing.assert_array_equal(images, IMAGES)
    # As NumPy and the evaluation suite write them.
    np.savez(path, arr_0=IMAGES[::-1], other=np.zeros(3))
    np.testing.assert_array_equal(open_images(path), IMAGES[::-1])
    np.savez_compressed(path, arr_0=IMAGES)
    with pytest.raises(ValueError, match="is compressed, which cannot be read in parts"):
        open_images(path)
    np.savez(path, IMAGES=IMAGES)
    with pytest.raises(ValueError, match="must be an npz with arr_0"):
        open_images(path)
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="must be an npz with arr_0"):
        open_images(path)


def test_pngs_are_called_by_sample_index(tmp_path):
    paths = save_pngs(tmp_path, IMAGES, first_index=17)
    assert [path.name for path in paths] == ["000017.png", "000018.png"]
    with Image.open(paths[1]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), IMAGES[1])


def test_pngs_called_by_name(tmp_path):
    assert save_pngs(tmp_path, IMAGES, names=["b/a.png", "c.png"])[0].is_file()
    with pytest.raises(ValueError, match="one name per image, got 1 for 2"):
        save_pngs(tmp_path, IMAGES, names=["a.png"])
