"""Golden autoencoders of diffusers as their entries and as ours."""

import numpy as np

from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.autoencoders.rae_config import RAEConfig
from rae_jax.weights.autoencoders import Loading, from_diffusers
from tests.comparison import Case

TINY = (
    "dinov2",
    "dinov2_plain",
    "dinov2_tf5names",
    "mae",
    "mae_tf5names",
    "mae_tokens",
    "siglip2",
    "siglip2_plain",
)
"""Names of the tiny cases after `diffusers_rae_tiny_`."""


def tensors_of(case: Case) -> dict[str, np.ndarray]:
    """Entries as saved: buffers hold what the configuration says."""
    config = RAEConfig.read(case.config)
    mean, std = (
        np.float32([default] if values is None else values)
        for values, default in ((config.latents_mean, 0), (config.latents_std, 1))
    )
    return case.entries() | {
        "encoder_mean": np.float32(config.image_mean).reshape(1, 3, 1, 1),
        "encoder_std": np.float32(config.image_std).reshape(1, 3, 1, 1),
        "_latents_mean": mean,
        "_latents_std": std,
    }


def autoencoder_of(case: Case, loading: Loading | None = None) -> AutoencoderRAE:
    config = RAEConfig.read(case.config)
    return from_diffusers(config, tensors_of(case), loading or Loading())
