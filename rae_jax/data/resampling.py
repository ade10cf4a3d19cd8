"""Part of a resized image, bit for bit as PIL's bicubic filter gives the whole.

PIL resizes along rows first and along columns second, each in 8-bit arithmetic with weights of 22
binary places. What a crop takes away need not be computed: that is all where the extra `fast` is
not installed. With it, both passes run as loops over contiguous pixels that numba compiles for the
vector units of the machine; PIL's own pass along rows goes pixel by pixel.
"""

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, __version__

from rae_jax.data import extras

_PRECISION = 22
_CHANNELS = 4
_TURNS_ROUND = int(__version__.split(".")[0]) >= 13


class Window(NamedTuple):
    """A rectangle of the resized image."""

    left: int
    top: int
    width: int
    height: int


def resized_part(image: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    """What `window` shows of `image` after `Image.resize(size, BICUBIC)`.

    Args:
        image: uint8 [H, W, 3].
        size: Width and height of the resized image.
        window: Lies within it.

    Returns:
        uint8 [window.height, window.width, 3].
    """
    if _columns_first(image, size):
        left, top, width, height = window
        whole = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        return np.asarray(whole.crop((left, top, left + width, top + height)))
    loops = compiled() if extras.are_used() else None
    if loops is None:
        return _by_pil(image, size, window)
    return _by_loops(image, size, window, loops)


def _columns_first(image: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether PIL turns the passes round, as it does from version 13 on for tall images."""
    height, width = image.shape[:2]
    shorter = height - size[1]
    return _TURNS_ROUND and shorter > max(2 * (width - size[0]), 0)


def _by_pil(image: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    picture = Image.fromarray(image)
    left, top, right = window.left, window.top, window.left + window.width
    # Without the filter's reach above and below the window the weights would be others, so the
    # pass along rows sees them all.
    picture = picture.resize((size[0], picture.height), Image.Resampling.BICUBIC)
    picture = picture.crop((left, 0, right, picture.height))
    picture = picture.resize((window.width, size[1]), Image.Resampling.BICUBIC)
    return np.asarray(picture.crop((0, top, window.width, top + window.height)))


class _Weights(NamedTuple):
    """Of each value of a resized line: where its taps begin, how many they are, and what."""

    starts: np.ndarray
    counts: np.ndarray
    taps: np.ndarray

    def part(self, first: int, length: int) -> "_Weights":
        return _Weights(*(array[first : first + length] for array in self))

    @property
    def reach(self) -> tuple[int, int]:
        """The places that any of them weighs: from, to."""
        return int(self.starts[0]), int(self.starts[-1] + self.counts[-1])


@functools.lru_cache(maxsize=1024)
def _weights(before: int, after: int) -> _Weights:
    """PIL's weights for a line of `before` values that gets `after`; orders of operations count."""
    scale = before / after
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    centers = (np.arange(after) + 0.5) * scale
    start = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centers + support + 0.5).astype(np.int64), before) - start
    places = np.arange(int(count.max()))
    taps = _bicubic((places + start[:, None] - centers[:, None] + 0.5) * (1.0 / stretch))
    taps[places >= count[:, None]] = 0.0
    # The last of the running sums, as `sum` adds in another order.
    taps /= np.cumsum(taps, axis=1)[:, -1:]
    fixed = taps * (1 << _PRECISION)
    return _Weights(start, count, np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int32))


def _bicubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


class _Loops(NamedTuple):
    """Compiled functions: `_weighted_rows` and `_three_of_four`."""

    weigh: Callable[..., Any]
    three_of_four: Callable[..., Any]


def _by_loops(
    image: np.ndarray, size: tuple[int, int], window: Window, loops: _Loops
) -> np.ndarray:
    height, width = image.shape[:2]
    across = _weights(width, size[0]).part(window.left, window.width)
    down = _weights(height, size[1]).part(window.top, window.height)
    (left, right), (top, bottom) = across.reach, down.reach
    columns, rows = right - left, bottom - top
    pixels = _as_words(image)[top:bottom, left:right]
    sums = _scratch("sums", _CHANNELS * 4 * max(rows, window.width)).view(np.int32)
    # Transposed, columns are rows, and both passes weigh whole rows.
    first = _scratch("first", columns * rows * _CHANNELS)
    np.copyto(first.view(np.uint32).reshape(columns, rows), pixels.T)
    second = _scratch("second", window.width * rows * _CHANNELS)
    loops.weigh(first.reshape(columns, -1), left, *across, sums, second.reshape(window.width, -1))
    first = _scratch("first", rows * window.width * _CHANNELS)
    np.copyto(
        first.view(np.uint32).reshape(rows, window.width),
        second.view(np.uint32).reshape(window.width, rows).T,
    )
    result = _scratch("second", window.height * window.width * _CHANNELS)
    loops.weigh(first.reshape(rows, -1), top, *down, sums, result.reshape(window.height, -1))
    part = np.empty((window.height, window.width, 3), np.uint8)
    loops.three_of_four(result.reshape(window.height, -1), part.reshape(window.height, -1))
    return part


def _as_words(image: np.ndarray) -> np.ndarray:
    """Pixels as one word each, uint32 [H, W]: of four bytes, the last one unused."""
    height, width = image.shape[:2]
    base = image.base
    if (
        isinstance(base, np.ndarray)
        and (base.dtype, base.shape) == (np.uint8, (height, width, _CHANNELS))
        and base.flags.c_contiguous
        and image.strides == base.strides
        and image.ctypes.data == base.ctypes.data
    ):
        return base.view(np.uint32)[..., 0]
    padded = _scratch("padded", height * width * _CHANNELS).reshape(height, width, _CHANNELS)
    padded[..., :3] = image
    return padded.view(np.uint32)[..., 0]


_local = threading.local()


def _scratch(name: str, size: int) -> np.ndarray:
    """Bytes that this thread uses again and again: fresh memory costs as much as the passes."""
    held = getattr(_local, name, None)
    if held is None or len(held) < size:
        held = np.empty(size * 5 // 4 // 4 * 4 + 4, np.uint8)
        setattr(_local, name, held)
    return held[:size]


def _weighted_rows(source, first, start, count, taps, sums, out):  # types: see `compiled`
    width = source.shape[1]
    for y in range(out.shape[0]):
        for x in range(width):
            sums[x] = 1 << (_PRECISION - 1)
        for tap in range(count[y]):
            weight = taps[y, tap]
            row = start[y] - first + tap
            for x in range(width):
                sums[x] += weight * np.int32(source[row, x])
        for x in range(width):
            out[y, x] = min(max(sums[x] >> _PRECISION, 0), 255)


def _three_of_four(source, out):  # types: see `compiled`
    for y in range(source.shape[0]):
        for x in range(source.shape[1] // 4):
            for channel in range(3):
                out[y, 3 * x + channel] = source[y, 4 * x + channel]


@functools.cache
def compiled() -> _Loops | None:
    """The loops compiled by numba; None where it is not installed."""
    try:
        import numba
    except ImportError:
        return None
    types = {
        _weighted_rows: "void(u1[:,::1], i8, i8[::1], i8[::1], i4[:,::1], i4[::1], u1[:,::1])",
        _three_of_four: "void(u1[:,::1], u1[:,::1])",
    }
    # Test runs wrap every function in checks that numba cannot compile.
    return _Loops(
        *(
            numba.njit(signature, nogil=True, cache=True)(inspect.unwrap(function))
            for function, signature in types.items()
        )
    )
