"""Encoded image files to pixels, as PIL decodes them."""

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError


class UnreadableImageError(ValueError):
    """Data that are no image, are damaged, or have more than 8 bits; the message names them."""


def decode(data: bytes, name: str) -> np.ndarray:
    """Pixels of an encoded image, uint8 [H, W, 3]; grey becomes RGB, transparency is dropped.

    Args:
        data: Contents of an image file in any format that PIL reads.
        name: What to call it if it cannot be read.

    Raises:
        UnreadableImageError: It is not an image, is damaged, or has more than 8 bits per channel.
    """
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
