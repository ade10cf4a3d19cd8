"""InceptionV3 as FID uses it: the TensorFlow graph of 2015-12-05 (Heusel 2017, arXiv:1706.08500).

It differs from the usual InceptionV3: averages leave out the padding, the last block pools by
maximum, there are 1008 classes, and images are resized as TensorFlow 1 did. The port follows
torch-fidelity's "inception-v3-compat", whose weight file it reads.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from rae_jax.typing import Array, Float, UInt8

INPUT_SIZE = 299
NUM_CLASSES = 1008
SPATIAL_CHANNELS = 7

_EPSILON = 1e-3


@struct.dataclass
class InceptionFeatures:
    """What scores are computed from, float32.

    Attributes:
        pool_1: [B, 64], mean over space after the first max-pool.
        pool_2: [B, 192], after the second.
        mixed_6e: [B, 768], before the auxiliary classifier.
        pool_3: [B, 2048], the features of FID.
        spatial: [B, 2023], seven channels of a 17 x 17 map, the features of sFID
            (Nash 2021, arXiv:2103.03841), ordered (row, column, channel).
        logits: [B, 1008].
        unbiased_logits: [B, 1008], without the bias, those of the Inception Score.
    """

    pool_1: Array
    pool_2: Array
    mixed_6e: Array
    pool_3: Array
    spatial: Array
    logits: Array
    unbiased_logits: Array


def resize_tensorflow_1(
    images: Float[Array, "B H W C"], size: tuple[int, int]
) -> Float[Array, "B H2 W2 C"]:
    """Bilinear, the sample of output i at i * input / output: not aligned to pixel centres."""
    for axis in (2, 1):
        have, want = images.shape[axis], size[axis - 1]
        if have == want:
            continue
        place = np.arange(want, dtype=np.float32) * np.float32(have / want)
        low = np.floor(place).astype(np.int32)
        shape = [1] * 4
        shape[axis] = want
        weight = jnp.asarray((place - low).reshape(shape))
        before = jnp.take(images, low, axis=axis)
        after = jnp.take(images, np.minimum(low + 1, have - 1), axis=axis)
        images = before + (after - before) * weight
    return images


class ConvNorm(nnx.Module):
    """relu(batch_norm(convolution(x))) with the statistics of training."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: str = "SAME",
    ):
        """Makes zeros of the right shapes; scoring networks are loaded, never trained.

        Args:
            channels: Channels that come in.
            width: Channels that go out.
            kernel: Height and width, or one number for both.
            stride: In both directions.
            padding: "SAME" or "VALID".
        """
        self.stride, self.padding = stride, padding
        height, breadth = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.kernel = nnx.Param(jnp.zeros((height, breadth, channels, width)))
        self.scale = nnx.Param(jnp.zeros(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.mean = nnx.Param(jnp.zeros(width))
        self.variance = nnx.Param(jnp.zeros(width))

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 D"]:
        """Activations, at least zero."""
        kernel = self.kernel[...]
        # Scores are compared over machines: no accelerator may round here as it likes.
        precision = jax.lax.Precision.HIGHEST
        if kernel.shape[:2] == (1, 1):
            # The same numbers; processors take half the time for them.
            maps = jnp.einsum("bhwc,cd->bhwd", maps, kernel[0, 0], precision=precision)
        else:
            maps = jax.lax.conv_general_dilated(
                maps,
                kernel,
                (self.stride, self.stride),
                self.padding,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=precision,
            )
        gain = self.scale[...] * jax.lax.rsqrt(self.variance[...] + _EPSILON)
        shift = self.bias[...] - self.mean[...] * gain
        return jax.nn.relu(maps * gain[None, None, None] + shift[None, None, None])


def _shrink(maps: Array) -> Array:
    return nnx.max_pool(maps, (3, 3), strides=(2, 2), padding="VALID")


def _average(maps: Array) -> Array:
    return nnx.avg_pool(maps, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)


def _maximum(maps: Array) -> Array:
    return nnx.max_pool(maps, (3, 3), strides=(1, 1), padding="SAME")


def _joined(*maps: Array) -> Array:
    return jnp.concatenate(maps, axis=-1)


# Attributes below are called as the entries of the published file, in lower case.


class _BlockA(nnx.Module):
    def __init__(self, channels: int, pool_width: int):
        self.branch1x1 = ConvNorm(channels, 64, 1)
        self.branch5x5_1 = ConvNorm(channels, 48, 1)
        self.branch5x5_2 = ConvNorm(48, 64, 5)
        self.branch3x3dbl_1 = ConvNorm(channels, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3)
        self.branch_pool = ConvNorm(channels, pool_width, 1)

    def __call__(self, maps: Array) -> Array:
        return _joined(
            self.branch1x1(maps),
            self.branch5x5_2(self.branch5x5_1(maps)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps))),
            self.branch_pool(_average(maps)),
        )


class _BlockB(nnx.Module):
    def __init__(self, channels: int):
        self.branch3x3 = ConvNorm(channels, 384, 3, stride=2, padding="VALID")
        self.branch3x3dbl_1 = ConvNorm(channels, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, stride=2, padding="VALID")

    def __call__(self, maps: Array) -> Array:
        return _joined(
            self.branch3x3(maps),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps))),
            _shrink(maps),
        )


class _BlockC(nnx.Module):
    def __init__(self, width: int):
        row, column = (1, 7), (7, 1)
        self.branch1x1 = ConvNorm(768, 192, 1)
        self.branch7x7_1 = ConvNorm(768, width, 1)
        self.branch7x7_2 = ConvNorm(width, width, row)
        self.branch7x7_3 = ConvNorm(width, 192, column)
        self.branch7x7dbl_1 = ConvNorm(768, width, 1)
        self.branch7x7dbl_2 = ConvNorm(width, width, column)
        self.branch7x7dbl_3 = ConvNorm(width, width, row)
        self.branch7x7dbl_4 = ConvNorm(width, width, column)
        self.branch7x7dbl_5 = ConvNorm(width, 192, row)
        self.branch_pool = ConvNorm(768, 192, 1)

    def __call__(self, maps: Array) -> Array:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(maps)))
        return _joined(
            self.branch1x1(maps),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(maps))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(_average(maps)),
        )


class _BlockD(nnx.Module):
    def __init__(self, channels: int):
        self.branch3x3_1 = ConvNorm(channels, 192, 1)
        self.branch3x3_2 = ConvNorm(192, 320, 3, stride=2, padding="VALID")
        self.branch7x7x3_1 = ConvNorm(channels, 192, 1)
        self.branch7x7x3_2 = ConvNorm(192, 192, (1, 7))
        self.branch7x7x3_3 = ConvNorm(192, 192, (7, 1))
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, stride=2, padding="VALID")

    def __call__(self, maps: Array) -> Array:
        wide = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(maps)))
        return _joined(
            self.branch3x3_2(self.branch3x3_1(maps)), self.branch7x7x3_4(wide), _shrink(maps)
        )


class _BlockE(nnx.Module):
    def __init__(self, channels: int, *, pool_by_maximum: bool):
        row, column = (1, 3), (3, 1)
        self.pool_by_maximum = pool_by_maximum
        self.branch1x1 = ConvNorm(channels, 320, 1)
        self.branch3x3_1 = ConvNorm(channels, 384, 1)
        self.branch3x3_2a = ConvNorm(384, 384, row)
        self.branch3x3_2b = ConvNorm(384, 384, column)
        self.branch3x3dbl_1 = ConvNorm(channels, 448, 1)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3)
        self.branch3x3dbl_3a = ConvNorm(384, 384, row)
        self.branch3x3dbl_3b = ConvNorm(384, 384, column)
        self.branch_pool = ConvNorm(channels, 192, 1)

    def __call__(self, maps: Array) -> Array:
        single = self.branch3x3_1(maps)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(maps))
        return _joined(
            self.branch1x1(maps),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(_maximum(maps) if self.pool_by_maximum else _average(maps)),
        )


class Inception(nnx.Module):
    """InceptionV3 for FID, sFID and Inception Score; parameters are zeros until loaded."""

    def __init__(self):
        self.conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2, padding="VALID")
        self.conv2d_2a_3x3 = ConvNorm(32, 32, 3, padding="VALID")
        self.conv2d_2b_3x3 = ConvNorm(32, 64, 3)
        self.conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.conv2d_4a_3x3 = ConvNorm(80, 192, 3, padding="VALID")
        self.mixed_5b = _BlockA(192, 32)
        self.mixed_5c = _BlockA(256, 64)
        self.mixed_5d = _BlockA(288, 64)
        self.mixed_6a = _BlockB(288)
        self.mixed_6b = _BlockC(128)
        self.mixed_6c = _BlockC(160)
        self.mixed_6d = _BlockC(160)
        self.mixed_6e = _BlockC(192)
        self.mixed_7a = _BlockD(768)
        self.mixed_7b = _BlockE(1280, pool_by_maximum=False)
        self.mixed_7c = _BlockE(2048, pool_by_maximum=True)
        self.fc_kernel = nnx.Param(jnp.zeros((2048, NUM_CLASSES)))
        self.fc_bias = nnx.Param(jnp.zeros(NUM_CLASSES))

    def __call__(self, images: UInt8[Array, "B H W 3"]) -> InceptionFeatures:
        """Features of images of any size; in a compiled function, those not used cost nothing."""
        pixels = resize_tensorflow_1(images.astype(jnp.float32), (INPUT_SIZE, INPUT_SIZE))
        maps = self.conv2d_2a_3x3(self.conv2d_1a_3x3((pixels - 128) / 128))
        first = maps = _shrink(self.conv2d_2b_3x3(maps))
        second = maps = _shrink(self.conv2d_4a_3x3(self.conv2d_3b_1x1(maps)))
        maps = self.mixed_5d(self.mixed_5c(self.mixed_5b(maps)))
        maps = self.mixed_6c(self.mixed_6b(self.mixed_6a(maps)))
        spatial = self.mixed_6d.branch1x1(maps)[..., :SPATIAL_CHANNELS]
        sixth = maps = self.mixed_6e(self.mixed_6d(maps))
        maps = self.mixed_7c(self.mixed_7b(self.mixed_7a(maps)))
        features = maps.mean(axis=(1, 2))
        unbiased = jnp.dot(features, self.fc_kernel[...], precision=jax.lax.Precision.HIGHEST)
        return InceptionFeatures(
            pool_1=first.mean(axis=(1, 2)),
            pool_2=second.mean(axis=(1, 2)),
            mixed_6e=sixth.mean(axis=(1, 2)),
            pool_3=features,
            spatial=spatial.reshape(spatial.shape[0], -1),
            logits=unbiased + self.fc_bias[...][None],
            unbiased_logits=unbiased,
        )
