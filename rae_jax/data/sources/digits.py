"""The 1,797 handwritten digits that ship with scikit-learn: real images without a download."""

import operator
from typing import SupportsIndex

import numpy as np
from PIL import Image

from rae_jax.data.sources.base import Record, record

SPLITS = ("train", "test")
_SPLIT_KEY = 1797
_TEST_EVERY = 5


def _split_indices(labels: np.ndarray, split: str) -> np.ndarray:
    """Places in the full set that belong to `split`, rising.

    Every fifth record is for testing, counted through the classes in turn and in random order
    within each, so every class gives a fifth of its records and the test split has 360.
    """
    # Raw bits are the same in every version of NumPy, which permutations are not promised to be.
    order = np.lexsort((np.random.Philox(key=_SPLIT_KEY).random_raw(len(labels)), labels))
    is_test = np.zeros(len(labels), bool)
    is_test[order[::_TEST_EVERY]] = True
    return np.flatnonzero(is_test if split == "test" else ~is_test)


class Digits:
    """Digits as RGB images, labels 0 to 9; 1,437 for training and 360 for testing.

    The 8x8 pictures of 17 grey levels (UCI Optical Recognition of Handwritten Digits) are
    stretched to 0..255 and enlarged bicubically in 8-bit arithmetic, which gives the same bytes
    on every machine.

    Args:
        split: "train" or "test"; always the same records.
        image_size: Side of the images.

    Attributes:
        classes: Names of the classes.

    Raises:
        ValueError: No such split, or `image_size` is below 1.
    """

    def __init__(self, split: str, *, image_size: int):
        if split not in SPLITS:
            raise ValueError(f"the digits have the splits {SPLITS}, got {split!r}")
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {image_size}")
        # Imported here because it takes a second, and other sources do without.
        from sklearn.datasets import load_digits

        pictures, labels = load_digits(return_X_y=True)
        places = _split_indices(labels, split)
        pictures = np.rint(pictures[places] * (255 / 16)).astype(np.uint8)
        self._pictures = pictures.reshape(-1, 8, 8)
        self._labels = labels[places]
        self.classes = tuple("0123456789")
        self._split = split
        self._image_size = image_size

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: SupportsIndex) -> Record:
        index = operator.index(index)
        size = (self._image_size, self._image_size)
        enlarged = Image.fromarray(self._pictures[index]).resize(size, Image.Resampling.BICUBIC)
        return record(np.asarray(enlarged.convert("RGB")), self._labels[index], index)

    def __repr__(self) -> str:
        return f"Digits({self._split!r}, image_size={self._image_size})"
