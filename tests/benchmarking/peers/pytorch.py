"""Batches of images by `torch.utils.data.DataLoader`."""

import pathlib
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

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
