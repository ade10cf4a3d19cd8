import numpy as np
import pytest
from PIL import Image

from rae_jax.sampling.save import save_npz, save_pngs

IMAGES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


def test_npz_has_the_layout_of_the_evaluation_suite(tmp_path):
    path = tmp_path / "out" / "samples.npz"
    save_npz(path, IMAGES, np.array([3, 5], np.int32))
    with np.load(path) as arrays:
        assert sorted(arrays) == ["arr_0", "arr_1"]
        np.testing.assert_array_equal(arrays["arr_0"], IMAGES)
        assert arrays["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["arr_1"], [3, 5])
        assert arrays["arr_1"].dtype == np.int64
    assert [entry.name for entry in path.parent.iterdir()] == ["samples.npz"]


def test_npz_needs_its_ending(tmp_path):
    with pytest.raises(ValueError, match="must end in .npz, got 'samples'"):
        save_npz(tmp_path / "samples", IMAGES, np.zeros(2, np.int32))


def test_pngs_are_called_by_sample_index(tmp_path):
    paths = save_pngs(tmp_path, IMAGES, first_index=17)
    assert [path.name for path in paths] == ["000017.png", "000018.png"]
    with Image.open(paths[1]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), IMAGES[1])


def test_pngs_called_by_name(tmp_path):
    assert save_pngs(tmp_path, IMAGES, names=["b/a.png", "c.png"])[0].is_file()
    with pytest.raises(ValueError, match="one name per image, got 1 for 2"):
        save_pngs(tmp_path, IMAGES, names=["a.png"])
