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
    zeros = (padding,) * (maps.ndim - 2)
    return jax.lax.platform_dependent(
        maps,
        kernel,
        cpu=functools.partial(_convolve_on_processors, zeros),
        default=functools.partial(_convolve, zeros),
    )


def _convolve(padding: tuple[int, ...], maps: Array, kernel: Array) -> Array:
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
def _convolve_on_processors(padding: tuple[int, ...], maps: Array, kernel: Array) -> Array:
    return _convolve(padding, maps, kernel)


def _forward(
    padding: tuple[int, ...], maps: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(padding, maps, kernel), (maps, kernel)


def _backward(
    padding: tuple[int, ...], kept: tuple[Array, Array], slope: Array
) -> tuple[Array, Array]:
    maps, kernel = kept
    flipped = jnp.flip(kernel, range(len(padding))).swapaxes(-2, -1)
    rest = tuple(side - 1 - zeros for side, zeros in zip(kernel.shape, padding, strict=False))
    by_maps = _convolve(rest, slope, flipped)
    # Channels take the place of the batch, and the batch that of channels.
    by_kernel = _convolve(padding, maps.swapaxes(0, -1), jnp.moveaxis(slope, 0, -2))
    return by_maps, jnp.moveaxis(by_kernel, 0, -2)


_convolve_on_processors.defvjp(_forward, _backward)
