"""Images to sequences of square patches and back."""

from rae_jax.typing import Array, Float


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches in an image.

    Raises:
        ValueError: If the patch size does not divide both sides.
    """
    for name, side in (("height", height), ("width", width)):
        if side < patch_size or side % patch_size:
            nearest = max(side - side % patch_size, patch_size)
            raise ValueError(
                f"image {name} {side} is not a multiple of patch_size {patch_size}; "
                f"resize to {nearest} or choose another patch size"
            )
    return height // patch_size, width // patch_size


def patchify(images: Float[Array, "B H W C"], patch_size: int) -> Float[Array, "B N D"]:
    """Cuts images into patches.

    Args:
        images: Sides that `patch_size` divides.
        patch_size: Side of a patch.

    Returns:
        Patches in raster order; values of one in the order (row, column, channel).
    """
    batch, height, width, channels = images.shape
    rows, columns = patch_grid(height, width, patch_size)
    cut = images.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


def unpatchify(
    patches: Float[Array, "B N D"], grid: tuple[int, int], patch_size: int
) -> Float[Array, "B H W C"]:
    """Joins patches to images: the inverse of `patchify`.

    Args:
        patches: As `patchify` returns them.
        grid: Rows and columns of patches.
        patch_size: Side of a patch.

    Raises:
        ValueError: If the patches do not fill the grid or hold no whole number of channels.
    """
    batch, count, size = patches.shape
    rows, columns = grid
    if count != rows * columns:
        raise ValueError(f"a grid of {rows}x{columns} needs {rows * columns} patches, got {count}")
    if size % patch_size**2:
        raise ValueError(
            f"patches of {size} values hold no whole number of {patch_size}x{patch_size} channels"
        )
    cut = patches.reshape(batch, rows, columns, patch_size, patch_size, -1)
    joined = cut.transpose(0, 1, 3, 2, 4, 5)
    return joined.reshape(batch, rows * patch_size, columns * patch_size, -1)
