"""Loads the published weights of networks that training and scores judge images by."""

import collections
import math
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from flax import nnx

from rae_jax.layers.functional import abstract, freeze
from rae_jax.models.auxiliary.dino_discriminator import DINO, DINOConfig, DINODiscriminator
from rae_jax.models.auxiliary.lpips import LPIPS
from rae_jax.models.auxiliary.vgg import VGG16
from rae_jax.typing import DTypeLike
from rae_jax.weights import checkpoints, convert, readers, torch_files
from rae_jax.weights.errors import WeightFileError
from rae_jax.weights.published import COLLECTION
from rae_jax.weights.tables.dino_discriminator import dino_table, heads_table
from rae_jax.weights.tables.lpips import LPIPS_TABLE

VGG16_FILE = "vgg16-397923af.pth"
LPIPS_FILE = "vgg.pth"
DINO_FILE = "dino_vit_small_patch8_224.pth"

_WHERE = {
    VGG16_FILE: f"torchvision publishes it at https://download.pytorch.org/models/{VGG16_FILE}",
    LPIPS_FILE: (
        "it lies in lpips/weights/v0.1 of https://github.com/richzhang/PerceptualSimilarity and of "
        "the package lpips (pip download lpips --no-deps)"
    ),
    DINO_FILE: (
        f"it lies in discs/ of the Hugging Face repository {COLLECTION} (hf download {COLLECTION} "
        f"discs/{DINO_FILE}); DINO's other networks are at https://github.com/facebookresearch/dino"
    ),
}
_FORMATS = "It is read as it is; safetensors with the same entries are read too"
_HEAD_DIM = 64
_RANDOM_WIDTHS = (8, 16, 32, 64, 64)
_RANDOM_DINO = DINOConfig(
    hidden_size=64, depth=4, num_heads=2, patch_size=8, image_size=48, mlp_ratio=4.0
)
_CHECKPOINT_ENTRY = "disc"

Path = str | os.PathLike[str]


def load_lpips(network: Path, weights: Path | None = None, *, dtype: DTypeLike) -> LPIPS:
    """LPIPS 0.1 on VGG16, all frozen.

    Args:
        network: The VGG16 of torchvision, or a folder with both files under their published
            names, `VGG16_FILE` and `LPIPS_FILE`.
        weights: The weights of LPIPS; not with a folder.
        dtype: Compute dtype of VGG16.

    Raises:
        FileNotFoundError: A file is missing; the message tells where it is published.
        ValueError: They are not those files.
    """
    network = pathlib.Path(network)
    if weights is None:
        network, weights = network / VGG16_FILE, network / LPIPS_FILE
    paths = _present(network, VGG16_FILE), _present(weights, LPIPS_FILE)
    tensors = _joined(*map(readers.read_tensors, paths))
    module = abstract(lambda: LPIPS(VGG16(dtype=dtype, rngs=nnx.Rngs(0))))
    try:
        return freeze(convert.load(LPIPS_TABLE, tensors, module))
    except convert.WeightError as error:
        raise convert.WeightError(
            f"{paths[0]} and {paths[1]} are not {VGG16_FILE} and {LPIPS_FILE}: {error}"
        ) from None


def random_lpips(*, dtype: DTypeLike) -> LPIPS:
    """LPIPS on a narrow VGG16 of random weights, always the same, all frozen; no file is read."""
    network = VGG16(widths=_RANDOM_WIDTHS, dtype=dtype, rngs=nnx.Rngs(0))
    return freeze(LPIPS(network))


def random_discriminator_backbone(
    *, dtype: DTypeLike, unroll: int = 1, remat: str = "none"
) -> DINO:
    """A small DINO of random weights, always the same, all frozen; no file is read.

    Args:
        dtype: Compute dtype.
        unroll: Blocks per iteration of the scan.
        remat: What the backward pass recomputes, see `scan_layers`.
    """
    return freeze(DINO(_RANDOM_DINO, dtype=dtype, unroll=unroll, remat=remat, rngs=nnx.Rngs(0)))


def load_discriminator_backbone(
    path: Path,
    *,
    num_heads: int | None = None,
    dtype: DTypeLike,
    unroll: int = 1,
    remat: str = "none",
) -> DINO:
    """A DINO, all frozen; its sizes are those of the file.

    Args:
        path: The file.
        num_heads: Attention heads; unless given, as many as there are 64 channels.
        dtype: Compute dtype.
        unroll: Blocks per iteration of the scan.
        remat: What the backward pass recomputes, see `scan_layers`.

    Raises:
        FileNotFoundError: The file is missing; the message tells where it is published.
        ValueError: It does not hold a DINO.
    """
    path = _present(path, DINO_FILE)
    tensors = readers.read_tensors(path)
    config = dino_sizes(tensors, num_heads)
    module = abstract(
        lambda: DINO(config, dtype=dtype, unroll=unroll, remat=remat, rngs=nnx.Rngs(0))
    )
    try:
        return freeze(convert.load(dino_table(config.patch_size), tensors, module))
    except convert.WeightError as error:
        raise convert.WeightError(f"{path} is no DINO such as {DINO_FILE}: {error}") from None


def dino_sizes(tensors: Mapping[str, np.ndarray], num_heads: int | None = None) -> DINOConfig:
    """Sizes of the DINO that the entries of a file make up.

    Args:
        tensors: Entries by key.
        num_heads: Attention heads; unless given, as many as there are 64 channels.

    Raises:
        WeightError: Entries that tell the sizes are missing or do not fit together.
    """
    keys = "patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"
    missing = [key for key in keys if key not in tensors]
    convert.require_none(f"missing entry {key} of a DINO" for key in missing)
    kernel, positions, up = (tensors[key].shape for key in keys)
    side = math.isqrt(max(positions[1] - 1, 0)) if len(positions) == 3 else 0
    width, patch_size = kernel[0], kernel[-1]
    heads = num_heads or max(width // _HEAD_DIM, 1)
    if side**2 + 1 != positions[1] or width % heads:
        raise convert.WeightError(
            f"a DINO has one position for each patch of a square and one more, and heads that "
            f"divide its width; got positions {positions}, width {width} and {heads} heads"
        )
    return DINOConfig(
        hidden_size=width,
        depth=len({key.split(".")[1] for key in tensors if key.startswith("blocks.")}),
        num_heads=heads,
        patch_size=patch_size,
        image_size=side * patch_size,
        mlp_ratio=up[0] / width,
    )


def load_discriminator_heads(path: Path, discriminator: DINODiscriminator) -> None:
    """Fills the heads of a discriminator, in place, from what the RAE release has trained.

    Args:
        path: A training checkpoint, whose entry "disc" they are, or a file of them alone.
        discriminator: With heads of the same configuration.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no such heads.
    """
    content = torch_files.read_torch(path)
    table = heads_table(discriminator.config)
    try:
        tensors = checkpoints.select(
            content, _CHECKPOINT_ENTRY if _CHECKPOINT_ENTRY in content else checkpoints.RAW
        )
        convert.load(table, tensors, discriminator.heads)
    except (WeightFileError, convert.WeightError) as error:
        raise type(error)(f"{path}: {error}") from None


def _joined(*files: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    # A view: the files are read lazily, and the classifier of VGG16, most of it, not at all.
    return collections.ChainMap(*files)  # pyright: ignore[reportArgumentType]


def _present(path: Path, name: str) -> pathlib.Path:
    """The path of a file, if it is there."""
    path = pathlib.Path(path)
    if path.is_file():
        return path
    raise FileNotFoundError(f"no file {path}, which must be {name}: {_WHERE[name]}. {_FORMATS}")
