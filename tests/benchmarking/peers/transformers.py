"""The encoder of the transformers library."""

from collections.abc import Callable

import torch
import transformers
from torch.nn import functional as F

from rae_jax.benchmarking import filling
from rae_jax.benchmarking.presets import IMAGE_MEAN, IMAGE_STD, NORMALIZED_VARIANCE, Settings
from rae_jax.benchmarking.sides import Prepared
from tests.benchmarking.peers import torch_side

VERSION = f"transformers {transformers.__version__}, torch {torch.__version__}"


def encoder(settings: Settings) -> Callable[[torch.Tensor], torch.Tensor]:
    """Images in [0, 1] to features [B, N, D]."""
    sizes = settings.sizes
    config = transformers.Dinov2WithRegistersConfig(**sizes.encoder)
    with torch_side.uninitialized():
        module = transformers.Dinov2WithRegistersModel(config).eval()
    torch_side.filled(module.requires_grad_(False))
    # The final norm of a RAE has no affine part.
    module.layernorm.weight.fill_(1)
    module.layernorm.bias.fill_(0)
    mean, std = (
        torch.tensor(v, device=torch_side.DEVICE)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD)
    )
    network = torch_side.compiled(module, settings)
    side = (sizes.encoder_input, sizes.encoder_input)

    def features(images: torch.Tensor) -> torch.Tensor:
        pixels = F.interpolate(images, size=side, mode="bicubic", align_corners=False)
        with torch_side.autocast(settings):
            tokens = network((pixels - mean) / std).last_hidden_state
        return tokens[:, 1 + config.num_register_tokens :]

    return features


def _encode(settings: Settings) -> Prepared:
    features, grid = encoder(settings), settings.sizes.grid
    images = torch_side.nchw(filling.images(settings.batch_size, settings.sizes.image_size))

    def run() -> torch.Tensor:
        latents = features(images).transpose(1, 2).unflatten(2, (grid, grid))
        return latents / NORMALIZED_VARIANCE**0.5

    return torch_side.prepared(settings, run, torch_side.nhwc)


PARTS = {"encode": _encode}
