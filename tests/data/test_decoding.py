"""JPEG files to the same pixels with and without the extra `fast`; what PIL alone may judge."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from rae_jax.data import decoding, extras
from rae_jax.data.decoding import UnreadableImageError, decode
from tests.data.photos import encoded, photo


def by_pil(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(64, 48), (37, 51), (9, 7), (1, 1)])
def test_jpeg_files_are_decoded_as_pil_does(subsampling, progressive, size):
    image = photo(0, 64, 64).crop((0, 0, *size))
    options = {"subsampling": subsampling, "progressive": progressive}
    for quality in (30, 75, 95):
        data = encoded(image, "jpeg", quality=quality, **options)
        fast = decoding._decode_jpeg(data)
        assert fast is not None
        np.testing.assert_array_equal(fast, by_pil(data))
        np.testing.assert_array_equal(decode(data, "a.jpg"), by_pil(data))


def test_grey_jpeg_files_become_rgb():
    data = encoded(photo(0, 40, 30).convert("L"), "jpeg", quality=80)
    assert decoding._decode_jpeg(data) is not None
    np.testing.assert_array_equal(decode(data, "a.jpg"), by_pil(data))


def test_pil_decodes_what_is_neither_colour_nor_grey():
    for data in (
        encoded(photo(0, 40, 30).convert("CMYK"), "jpeg"),
        encoded(photo(0, 40, 30), "jpeg", keep_rgb=True, subsampling="4:4:4"),
        encoded(photo(0, 40, 30), "png"),
    ):
        assert decoding._decode_jpeg(data) is None
        np.testing.assert_array_equal(decode(data, "a.jpg"), by_pil(data))


@pytest.mark.parametrize("cut", [2, 100, 700, -40])
def test_cut_files_are_unreadable_either_way(cut):
    data = encoded(photo(0, 64, 48), "jpeg", quality=90)[:cut]
    messages = []
    for way in (contextlib.nullcontext, extras.left_out):
        with (
            way(),
            pytest.raises(UnreadableImageError, match=r"cannot read image b/a\.jpg: ") as caught,
        ):
            decode(data, "b/a.jpg")
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_picture_too_large_to_be_sound_is_refused(monkeypatch):
    data = encoded(photo(0, 64, 48), "jpeg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decoding._decode_jpeg(data) is None
    with pytest.raises(UnreadableImageError, match="exceeds limit"):
        decode(data, "a.jpg")
