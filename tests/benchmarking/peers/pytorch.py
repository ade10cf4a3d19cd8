"""PyTorch itself: its `DataLoader`, and the step of stage 1 as the RAE release takes it."""

import os
import pathlib
import types
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from rae_jax.benchmarking import filling
from rae_jax.benchmarking.presets import Settings
from rae_jax.benchmarking.sides import Prepared

VERSION = f"torch {torch.__version__}"


class Images(Dataset):
    """Images cropped in the middle as ADM does, mirrored at random, as floats in [0, 1]."""

    def __init__(self, folder: str, image_size: int):
        self.paths = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        with Image.open(self.paths[index]) as image:
            picture = image.convert("RGB")
        size = self.image_size
        while min(picture.size) >= 2 * size:
            picture = picture.resize(
                (picture.width // 2, picture.height // 2), Image.Resampling.BOX
            )
        scale = size / min(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)),
            Image.Resampling.BICUBIC,
        )
        left, top = (picture.width - size) // 2, (picture.height - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
        if torch.rand(()) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return pixels.to(torch.float32).div(255), 0


def batches(folder: str, *, image_size: int, batch_size: int, workers: int) -> Iterator[object]:
    """Endless shuffled batches."""
    torch.set_num_threads(1)
    loader = DataLoader(
        Images(folder, image_size),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def _train_stage1(settings: Settings) -> Prepared:
    """On the initial weights of ours, which alone JAX is needed for."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from rae_jax.benchmarking import parts
    from rae_jax.reconstruction.objective import Phases
    from tests.benchmarking.peers import torch_side, transformers
    from tests.training.torch_stage1 import Draws, StepInput, TorchStage1

    torch.set_default_device(torch_side.DEVICE)
    config, program = parts.stage1_program(settings)
    job = types.SimpleNamespace(
        config=config,
        step=program.step,
        frozen=program.frozen,
        source=range(parts.IMAGENET),
    )
    peer = TorchStage1(job, jax.jit(program.initial_state)())  # pyright: ignore
    encode = transformers.encoder(settings)
    images = torch_side.nchw(filling.images(settings.batch_size, settings.sizes.image_size))
    images = images.clamp(0, 1)
    grid = settings.sizes.grid
    tau, random = config.autoencoder.noise_tau, np.random.default_rng(0)

    def run() -> dict[str, float]:
        with torch.no_grad():
            clean = encode(images).float().unflatten(1, (grid, grid))
            strength = tau * torch.rand(len(clean), 1, 1, 1)
            noisy = clean + strength * torch.randn_like(clean)
        draws = tuple(Draws(random.random(3), random.random((7, len(images)))) for _ in range(3))
        given = StepInput(images, clean, noisy, draws, Phases(True, True, True))
        with torch_side.autocast(settings):
            return peer.step(given)

    return torch_side.prepared(settings, run, trains=True)


PARTS = {"train-stage1": _train_stage1}
