"""Image files for tests: small, all different, some damaged."""

import io
import pathlib

from PIL import Image

from rae_jax.benchmarking.data import photograph as photo

__all__ = ["encoded", "folder", "photo"]


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
