"""Encoded image files to pixels, as PIL decodes them."""

import functools
import io
import warnings
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from rae_jax.data import extras


class UnreadableImageError(ValueError):
    """Data that are no image, are damaged, or have more than 8 bits; the message names them."""


def decode(data: bytes, name: str) -> np.ndarray:
    """Pixels of an encoded image, uint8 [H, W, 3]; grey becomes RGB, transparency is dropped.

    JPEG files are decoded by simplejpeg where it is installed (the extra `fast`), to the same
    bytes: both stand on libjpeg-turbo, but it gives its pixels away without a copy.

    Args:
        data: Contents of an image file in any format that PIL reads.
        name: What to call it if it cannot be read.

    Raises:
        UnreadableImageError: It is not an image, is damaged, or has more than 8 bits per channel.
    """
    pixels = _decode_jpeg(data)
    if pixels is not None:
        return pixels
    try:
        with warnings.catch_warnings():
            # PIL warns about palettes with transparency, which is dropped here anyway.
            warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)
            with Image.open(io.BytesIO(data)) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"mode {image.mode} has more than 8 bits; convert it first")
                return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise UnreadableImageError(f"cannot read image {name}: no format that PIL knows") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # PIL reports damaged PNG chunks as SyntaxError.
        raise UnreadableImageError(f"cannot read image {name}: {error}") from error


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """Pixels of a sound colour or grey JPEG file; None for PIL to judge what it is."""
    simplejpeg = _simplejpeg() if extras.are_used() else None
    if simplejpeg is None or not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if colors not in ("Gray", "YCbCr") or height * width > (Image.MAX_IMAGE_PIXELS or 0):
            return None
        # Pixels of four bytes, as `resampling` likes them.
        return simplejpeg.decode_jpeg(data, "RGBX")[..., :3]
    except ValueError:
        return None


@functools.cache
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg
