"""Augmentations that gradients go through (DiffAugment, Zhao 2020, arXiv:2006.10738).

A discriminator that sees real and made images only in disguise cannot learn the real ones by heart.
"""

import jax
import jax.numpy as jnp

from rae_jax.typing import Array, Float, Int, Key

NUM_CHOICES = 3
"""Decisions per batch: translation, colour, cutout."""

NUM_DRAWS = 7
"""Numbers per image: translation by rows and columns, brightness, saturation, contrast, cutout by
rows and columns."""

_TRANSLATION = 8


def augment(
    images: Float[Array, "B H W C"],
    key: Key[Array, ""],
    *,
    probability: float,
    cutout: float = 0.0,
    index: Int[Array, " B"] | None = None,
) -> Float[Array, "B H W C"]:
    """Translation, colour and cutout, each applied to the whole batch or not at all.

    Args:
        images: In [-1, 1]; what colour makes of them is not clipped.
        key: Source of all decisions and draws; those of an image depend on its index.
        probability: Of each of the three.
        cutout: Sides of the rectangle that is blanked, as a share of the image's; 0 blanks none.
        index: Of the images, for a part of a batch; unless given, 0, 1, ...

    Raises:
        ValueError: A share or probability is not in [0, 1].
    """
    for name, value in (("probability", probability), ("cutout", cutout)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    if probability == 0:
        return images
    choice_key, draw_key = jax.random.split(key)
    choices = jax.random.uniform(choice_key, (NUM_CHOICES,))
    index = jnp.arange(len(images)) if index is None else index
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(draw_key, index)
    draws = jax.vmap(lambda image_key: jax.random.uniform(image_key, (NUM_DRAWS,)))(keys)
    return apply_augmentation(images, choices, draws.T, probability=probability, cutout=cutout)


def apply_augmentation(
    images: Float[Array, "B H W C"],
    choices: Float[Array, "3"],
    draws: Float[Array, "7 B"],
    *,
    probability: float,
    cutout: float = 0.0,
) -> Float[Array, "B H W C"]:
    """`augment` with given numbers in [0, 1).

    Args:
        images: See `augment`.
        choices: Translation, colour and cutout are on where the number is at most `probability`.
        draws: See `NUM_DRAWS`; rows in that order.
        probability: See `augment`.
        cutout: See `augment`.
    """
    translated, coloured, cut = choices <= probability
    images = _translated(images, draws[:2], translated)
    images = jnp.where(coloured, _coloured(images, draws[2:5]), images)
    if cutout > 0:
        blanked = _rectangle(images, draws[5:], cutout)
        images = jnp.where(cut & blanked[..., None], 0.0, images)
    return images


def _translated(images: Array, draws: Array, is_on: Array) -> Array:
    """Moved by up to an eighth of the sides; what comes in is zero."""
    height, width, channels = images.shape[1:]
    reach = [round(side / _TRANSLATION) for side in (height, width)]
    # Where each image begins in its padded copy: in the middle if it stays.
    starts = [
        jnp.where(is_on, jnp.floor(draw * (2 * most + 1)).astype(jnp.int32), most)
        for draw, most in zip(draws, reach, strict=True)
    ]
    padded = jnp.pad(images, ((0, 0), *((most, most) for most in reach), (0, 0)))

    def window(image: Array, row: Array, column: Array) -> Array:
        return jax.lax.dynamic_slice(image, (row, column, 0), (height, width, channels))

    return jax.vmap(window)(padded, *starts)


def _coloured(images: Array, draws: Array) -> Array:
    brightness, saturation, contrast = draws[..., None, None, None]
    images = images + (brightness - 0.5)
    grey = images.mean(axis=-1, keepdims=True)
    images = (images - grey) * (2 * saturation) + grey
    level = images.mean(axis=(1, 2, 3), keepdims=True)
    return (images - level) * (contrast + 0.5) + level


def _rectangle(images: Array, draws: Array, share: float) -> Array:
    """Which places of each image lie in its rectangle, [B, H, W]."""
    inside = []
    for draw, side in zip(draws, images.shape[1:3], strict=True):
        length = round(side * share)
        middle = jnp.floor(draw * (side + 1 - length % 2)).astype(jnp.int32)
        distance = jnp.arange(side)[None] - (middle - length // 2)[:, None]
        inside.append((distance >= 0) & (distance < length))
    rows, columns = inside
    return rows[:, :, None] & columns[:, None, :]
