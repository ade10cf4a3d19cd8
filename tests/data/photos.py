"""Image files for tests: small, all different, some damaged."""

import io
import pathlib

import numpy as np
from PIL import Image


def photo(seed: int, width: int, height: int) -> Image.Image:
    """Something like a photograph: correlated over all distances, as natural images are."""
    rng = np.random.default_rng(seed)
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequencies[0, 0] = 1 / max(width, height)
    grey = rng.standard_normal((height, width))
    channels = []
    for _ in range(3):
        noise = 0.8 * grey + 0.4 * rng.standard_normal((height, width))
        channel = np.fft.ifft2(np.fft.fft2(noise) / frequencies**1.1).real
        channels.append((channel - channel.mean()) / channel.std())
    pixels = np.clip(128 + 50 * np.stack(channels, axis=-1), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """The contents of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def folder(where: pathlib.Path, *, classes: int = 2, per_class: int = 5) -> pathlib.Path:
    """A folder of small files in class folders; formats, modes and sizes differ."""
    for label in range(classes):
        (where / f"class{label}").mkdir(parents=True)
        for number in range(per_class):
            image = photo(label * per_class + number, 40 + 3 * number, 52 - 4 * number)
            name = where / f"class{label}" / f"{number}"
            if number % 3 == 0:
                image.save(name.with_suffix(".jpg"), quality=90)
            elif number % 3 == 1:
                image.save(name.with_suffix(".png"))
            else:
                image.convert("L").save(name.with_suffix(".webp"), lossless=True)
    return where
