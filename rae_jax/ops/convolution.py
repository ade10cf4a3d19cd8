"""Convolution of maps and of rows of tokens, channels last, stride one."""

import functools

import jax
import jax.numpy as jnp

from rae_jax.typing import Array, Float

_SIDES = "HW"


def convolve(
    maps: Float[Array, "B *sides C"], kernel: Float[Array, "*window C D"], padding: int
) -> Float[Array, "B *places D"]:
    """Convolution, not flipped, of one or two sides; to be differentiated backwards only.

    Args:
        maps: What lies under the kernel.
        kernel: Of the dtype of the maps.
        padding: Zeros at both ends of every side; less than the sides of the window.
    """
    return jax.lax.platform_dependent(
        maps,
        kernel,
        cpu=functools.partial(_convolve_on_processors, padding),
        default=functools.partial(_convolve, padding),
    )


def _convolve(padding: int, maps: Array, kernel: Array) -> Array:
    return _product(maps, kernel, (padding,) * (maps.ndim - 2))


def _product(maps: Array, kernel: Array, padding: tuple[int, ...]) -> Array:
    sides = _SIDES[: len(padding)]
    return jax.lax.conv_general_dilated(
        maps,
        kernel,
        (1,) * len(padding),
        [(zeros, zeros) for zeros in padding],
        dimension_numbers=(f"N{sides}C", f"{sides}IO", f"N{sides}C"),
    )


# XLA brings the axes of gradients' convolutions into the order that its fast routine for
# processors wants, but not within the branches of `cond` nor in loops: there a gradient by the
# kernel took 40 times as long. So the axes have that order from the outset.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve_on_processors(padding: int, maps: Array, kernel: Array) -> Array:
    return _convolve(padding, maps, kernel)


def _forward(padding: int, maps: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(padding, maps, kernel), (maps, kernel)


def _backward(padding: int, kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    maps, kernel = kept
    sides = tuple(range(maps.ndim - 2))
    flipped = jnp.flip(kernel, sides).swapaxes(-2, -1)
    by_maps = _product(slope, flipped, tuple(kernel.shape[side] - 1 - padding for side in sides))
    # Channels take the place of the batch, and the batch that of channels.
    windows = _product(maps.swapaxes(0, -1), jnp.moveaxis(slope, 0, -2), (padding,) * len(sides))
    return by_maps, jnp.moveaxis(windows, 0, -2)


_convolve_on_processors.defvjp(_forward, _backward)
