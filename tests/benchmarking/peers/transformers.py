"""The encoder of the transformers library."""

import torch
import transformers
from torch.nn import functional as F

from rae_jax.benchmarking import filling
from rae_jax.benchmarking.presets import IMAGE_MEAN, IMAGE_STD, NORMALIZED_VARIANCE, Settings
from rae_jax.benchmarking.sides import Prepared
from tests.benchmarking.peers import torch_side

VERSION = f"transformers {transformers.__version__}, torch {torch.__version__}"


def _encode(settings: Settings) -> Prepared:
    sizes = settings.sizes
    config = transformers.Dinov2WithRegistersConfig(**sizes.encoder)
    with torch_side.uninitialized():
        encoder = transformers.Dinov2WithRegistersModel(config).eval()
    torch_side.filled(encoder)
    # The final norm of a RAE has no affine part.
    encoder.layernorm.weight.data.fill_(1)
    encoder.layernorm.bias.data.fill_(0)
    mean, std = (
        torch.tensor(v, device=torch_side.DEVICE)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD)
    )
    network = torch_side.compiled(encoder, settings)
    images = torch_side.nchw(filling.images(settings.batch_size, sizes.image_size))
    side = (sizes.encoder_input, sizes.encoder_input)

    def run() -> torch.Tensor:
        pixels = F.interpolate(images, size=side, mode="bicubic", align_corners=False)
        with torch_side.autocast(settings):
            tokens = network((pixels - mean) / std).last_hidden_state
        patches = tokens[:, 1 + config.num_register_tokens :]
        grid = patches.transpose(1, 2).unflatten(2, (sizes.grid, sizes.grid))
        return grid / NORMALIZED_VARIANCE**0.5

    return torch_side.prepared(settings, run, torch_side.nhwc)


PARTS = {"encode": _encode}
