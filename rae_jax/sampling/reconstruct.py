"""Images through an autoencoder and back, to files."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.checkpointing.experiment import open_workdir
from rae_jax.configuration.schema import ReconstructionConfig, as_dict
from rae_jax.data.sources.image_folder import ImageFolder, read_image
from rae_jax.data.transforms import center_crop, squash
from rae_jax.files import WORK_FOLDER, local_path
from rae_jax.layers.functional import split
from rae_jax.models.autoencoders.base import Autoencoder
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.monitoring.image_grids import grid, save_png
from rae_jax.monitoring.progress import progress_bar
from rae_jax.ops.images import to_float, to_uint8
from rae_jax.pretrained import load_autoencoder
from rae_jax.sampling.save import save_pngs
from rae_jax.sharding.processes import require_one_process
from rae_jax.typing import UInt8

KIND = "reconstructions"
PICTURE = "side_by_side.png"
_SHOWN = 12


class Reconstructor:
    """A trained or published autoencoder as a function from images to images.

    Attributes:
        image_size: Side of the images that go in and come out.
    """

    def __init__(
        self, checkpoint: str, *, weights: str = "ema", batch_size: int = 64, image_size: int = 0
    ):
        """Loads encoder and decoder.

        Args:
            checkpoint: Work folder of a stage-1 run, or an autoencoder that diffusers wrote.
            weights: "ema", or "raw" of a run.
            batch_size: Images at a time.
            image_size: Side of the images; 0 for a RAE's own.

        Raises:
            FileNotFoundError: No such folder or repository, or no checkpoint there.
            ValueError: A run of another kind, or damaged, or not for images of this size.
        """
        source: dict[str, Any] = {} if weights == "ema" else {"weights": weights}
        autoencoder = load_autoencoder(checkpoint, **source)
        definition, self._frozen = split(autoencoder)
        self._function = jax.jit(
            lambda frozen, images: to_uint8(definition.merge(frozen)(to_float(images)))
        )
        self._batch_size, self._size = batch_size, 0
        self.image_size = _image_size(autoencoder, image_size)

    def __call__(self, images: UInt8[np.ndarray, "N H W 3"]) -> UInt8[np.ndarray, "N H W 3"]:
        """Reconstructions, in batches of one shape."""
        # Later calls with fewer images fill up to the first one's shape, which is compiled.
        size = self._size = max(self._size, min(self._batch_size, len(images)))
        parts = []
        for start in range(0, len(images), size):
            rows = np.minimum(np.arange(start, start + size), len(images) - 1)
            part = np.asarray(self._function(self._frozen, jnp.asarray(images[rows])))
            parts.append(part[: len(images) - start])
        return np.concatenate(parts)


def reconstruct_files(config: ReconstructionConfig, workdir: str | pathlib.Path) -> pathlib.Path:
    """Reconstructs an image, or every image of a folder, into `workdir`.

    Writes one PNG per image, called as its original and in the same sub-folder, and
    `side_by_side.png` with the first originals over their reconstructions.

    Returns:
        The work folder.

    Raises:
        FileNotFoundError: Input or stage-1 run is missing.
        ValueError: An image cannot be read, the folder is empty, a file in `workdir` would
            replace an original, or settings do not fit.
    """
    wanted = {
        "checkpoint": "the work folder of a stage-1 run or an autoencoder of diffusers",
        "input": "an image or a folder",
    }
    for name, what in wanted.items():
        if not getattr(config, name):
            raise ValueError(f"{name} is not set; set --config.{name} to {what}")
    require_one_process("reconstructing to files")
    folder = local_path(workdir, WORK_FOLDER).absolute()
    paths = _image_paths(local_path(config.input, "the images to reconstruct"))
    _require_apart(folder, paths)
    reconstruct = Reconstructor(
        config.checkpoint,
        weights=config.weights,
        batch_size=config.batch_size,
        image_size=config.image_size,
    )
    # Not before all is there: the folder may be one of the user's own, named by mistake.
    open_workdir(folder, KIND, as_dict(config), ("batch_size",), results=[PICTURE])
    prepare = {"center": center_crop, "squash": squash}[config.crop]
    shown: list[np.ndarray] = []
    with progress_bar(len(paths), description="reconstructing", unit="image") as bar:
        for start in range(0, len(paths), config.batch_size):
            part = paths[start : start + config.batch_size]
            originals = np.stack([prepare(read_image(p), reconstruct.image_size) for _, p in part])
            pictures = reconstruct(originals)
            save_pngs(folder, pictures, names=[name for name, _ in part])
            shown = shown or [originals[:_SHOWN], pictures[:_SHOWN]]
            bar.update(len(part))
    save_png(folder / PICTURE, grid(np.concatenate(shown), columns=len(shown[0])))
    return folder


def _image_size(autoencoder: Autoencoder, asked: int) -> int:
    if isinstance(autoencoder, AutoencoderRAE):
        if asked not in (0, autoencoder.image_size):
            raise ValueError(
                f"image_size must be 0 or {autoencoder.image_size} for this autoencoder, which "
                f"gives images of one size, got {asked}"
            )
        return autoencoder.image_size
    if not asked:
        raise ValueError(
            "image_size is not set, and this autoencoder takes any; set --config.image_size, such "
            "as to 256"
        )
    autoencoder.latent_shape(asked)
    return asked


def _image_paths(path: pathlib.Path) -> list[tuple[str, str]]:
    """(name of the PNG to write, path of the image) for a file or each file of a folder.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: A folder without images, or two images that would become one PNG.
    """
    if path.is_file():
        return [(f"{path.stem}.png", str(path))]
    if not path.is_dir():
        raise FileNotFoundError(f"no image and no folder of images at {path}")
    source = ImageFolder(path)
    found = [source.path(index) for index in range(len(source))]
    names = [str(pathlib.Path(file).relative_to(path).with_suffix(".png")) for file in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"several images of {path} would become {twice[0]}; give them different names"
        )
    return list(zip(names, found, strict=True))


def _require_apart(folder: pathlib.Path, paths: list[tuple[str, str]]) -> None:
    """Raises ValueError if a picture written to `folder` would replace an original or another."""
    names = [name for name, _ in paths]
    if PICTURE in names:
        raise ValueError(f"an image may not be called {PICTURE}, as the picture of all is; move it")
    originals = {pathlib.Path(path).resolve() for _, path in paths}
    lost = [name for name in names if (folder / name).resolve() in originals]
    if lost:
        raise ValueError(
            f"the reconstruction of {lost[0]} would replace an original in {folder}; use another "
            "--workdir"
        )
