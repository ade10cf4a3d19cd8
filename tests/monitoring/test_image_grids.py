import numpy as np
import pytest
from PIL import Image

from rae_jax.monitoring.image_grids import grid, save_png


def test_images_stand_row_by_row():
    images = np.stack([np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)])
    canvas = grid(images, columns=2, padding=1)
    assert canvas.shape == (2 * 3 + 1, 2 * 4 + 1, 3)
    np.testing.assert_array_equal(canvas[1:3, 1:4], images[0])
    np.testing.assert_array_equal(canvas[1:3, 5:8], images[1])
    np.testing.assert_array_equal(canvas[4:6, 1:4], images[2])
    assert int(canvas.sum()) == int(images.sum())


def test_no_more_columns_than_images():
    assert grid(np.zeros((2, 4, 4, 3), np.uint8), columns=8, padding=0).shape == (4, 8, 3)


@pytest.mark.parametrize(("count", "columns"), [(0, 2), (2, 0)])
def test_empty_grids_are_refused(count, columns):
    with pytest.raises(ValueError, match=f"{count} images, {columns} columns"):
        grid(np.zeros((count, 4, 4, 3), np.uint8), columns)


def test_png_keeps_every_pixel(tmp_path):
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    path = tmp_path / "new" / "a.png"
    save_png(path, image)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), image)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]
