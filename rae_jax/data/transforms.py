"""Preparation of single images on the host, bit for bit as PIL does it upstream.

Transforms map records to records. Random ones draw from a generator that belongs to the record's
place in the stream. (Grain's base classes look to the type checker as if they returned None.)
"""

import numpy as np
from grain import transforms as grain_transforms
from PIL import Image

from rae_jax.data.resampling import Window, resized_part
from rae_jax.data.sources.base import Record


def center_crop(image: np.ndarray, image_size: int) -> np.ndarray:
    """Largest square in the middle, resized to `image_size` (ADM, openai/guided-diffusion).

    Args:
        image: uint8 [H, W, 3].
        image_size: Side of the result.

    Returns:
        uint8 [image_size, image_size, 3].
    """
    while min(image.shape[:2]) >= 2 * image_size:
        height, width = image.shape[:2]
        half = Image.fromarray(image).resize((width // 2, height // 2), Image.Resampling.BOX)
        image = np.asarray(half)
    height, width = image.shape[:2]
    scale = image_size / min(width, height)
    width, height = round(width * scale), round(height * scale)
    left, top = (width - image_size) // 2, (height - image_size) // 2
    window = Window(left, top, image_size, image_size)
    return resized_part(image, (width, height), window)


def resize_shorter_side(image: np.ndarray, resize_size: int) -> np.ndarray:
    """Shorter side to `resize_size`, the longer one in proportion, rounded down (torchvision).

    Args:
        image: uint8 [H, W, 3].
        resize_size: Length of the shorter side of the result.

    Returns:
        uint8 [H', W', 3].
    """
    size = _size_of_shorter_side(image, resize_size)
    return _part_of_resized(image, size, Window(0, 0, *size))


def _size_of_shorter_side(image: np.ndarray, resize_size: int) -> tuple[int, int]:
    """Width and height after `resize_shorter_side`."""
    height, width = image.shape[:2]
    longer = int(resize_size * max(height, width) / min(height, width))
    return (resize_size, longer) if width <= height else (longer, resize_size)


def _part_of_resized(image: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    if min(image.shape[:2]) == min(size):
        return image[window.top :, window.left :][: window.height, : window.width]
    return resized_part(image, size, window)


def squash(image: np.ndarray, image_size: int) -> np.ndarray:
    """The whole image resized to a square, whatever its proportions.

    Args:
        image: uint8 [H, W, 3].
        image_size: Side of the result.

    Returns:
        uint8 [image_size, image_size, 3].
    """
    size = (image_size, image_size)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


class CenterCrop(grain_transforms.Map):
    """`center_crop` of each image."""

    def __init__(self, image_size: int):
        self.image_size = image_size

    def map(self, element: Record) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Record with its image cropped."""
        return {**element, "image": center_crop(element["image"], self.image_size)}


class RequireSize(grain_transforms.Map):
    """Lets square images of `image_size` through; others are an error."""

    def __init__(self, image_size: int):
        self.image_size = image_size

    def map(self, element: Record) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The record itself.

        Raises:
            ValueError: Its image has another size.
        """
        height, width = element["image"].shape[:2]
        if (height, width) != (self.image_size, self.image_size):
            raise ValueError(
                f"image {element['index']} is {width} wide and {height} high, not "
                f"{self.image_size} each; set data.crop to 'center' or 'random'"
            )
        return element


class RandomCrop(grain_transforms.RandomMap):
    """A random square of `image_size` after the shorter side was resized to `resize_size`."""

    def __init__(self, image_size: int, resize_size: int):
        if resize_size < image_size:
            raise ValueError(
                f"resize_size {resize_size} must be at least image_size {image_size}, "
                "or no square fits"
            )
        self.image_size = image_size
        self.resize_size = resize_size

    def random_map(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, element: Record, rng: np.random.Generator
    ) -> Record:
        """Record with its image resized and cropped."""
        width, height = size = _size_of_shorter_side(element["image"], self.resize_size)
        top = int(rng.integers(height - self.image_size + 1))
        left = int(rng.integers(width - self.image_size + 1))
        window = Window(left, top, self.image_size, self.image_size)
        return {**element, "image": _part_of_resized(element["image"], size, window)}


def _mirrored(image: np.ndarray) -> np.ndarray:
    # Pixel by pixel: reversed along an axis of bytes, batches would be put together byte by byte.
    pixels = np.ascontiguousarray(image).view("V3")
    return np.ascontiguousarray(pixels[:, ::-1]).view(np.uint8)


class RandomFlip(grain_transforms.RandomMap):
    """Mirrors left and right with probability one half."""

    def random_map(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, element: Record, rng: np.random.Generator
    ) -> Record:
        """Record with its image mirrored or not."""
        if is_mirrored(rng):
            return {**element, "image": _mirrored(element["image"])}
        return element


def is_mirrored(rng: np.random.Generator) -> bool:
    """The choice of `RandomFlip`."""
    return rng.random() >= 0.5
