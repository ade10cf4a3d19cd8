"""From configuration to the networks that judge reconstructions in training."""

from flax import nnx

from rae_jax.configuration.reconstruction import (
    RANDOM_FEATURES,
    DiscriminatorConfig,
    LPIPSConfig,
)
from rae_jax.models.auxiliary.dino_discriminator import (
    DINO,
    DINODiscriminator,
    HeadConfig,
)
from rae_jax.models.auxiliary.lpips import LPIPS
from rae_jax.models.compute import Compute
from rae_jax.weights import auxiliary


def lpips(config: LPIPSConfig, compute: Compute) -> LPIPS:
    """The perceptual loss, all frozen.

    Raises:
        FileNotFoundError: A file is missing; the message tells where it is published.
        ValueError: They are not those files.
    """
    if config.path == RANDOM_FEATURES:
        return auxiliary.random_lpips(dtype=compute.dtype)
    return auxiliary.load_lpips(config.path, dtype=compute.dtype)


def discriminator_backbone(config: DiscriminatorConfig, compute: Compute) -> DINO:
    """The network on whose features a discriminator works, all frozen.

    Raises:
        FileNotFoundError: The file is missing; the message tells where it is published.
        ValueError: It holds no DINO.
    """
    if config.path == RANDOM_FEATURES:
        return auxiliary.random_discriminator_backbone(**compute.arguments)
    return auxiliary.load_discriminator_backbone(config.path, **compute.arguments)


def discriminator(
    config: DiscriminatorConfig, backbone: DINO, compute: Compute, *, rngs: nnx.Rngs
) -> DINODiscriminator:
    """The backbone with fresh heads of the configured kind.

    Raises:
        ValueError: The backbone is not as deep as a key depth.
    """
    heads = HeadConfig(
        key_depths=config.key_depths,
        kernel_size=config.kernel_size,
        norm=config.norm,
        spectral=config.spectral,
        norm_eps=config.norm_eps,
    )
    return DINODiscriminator(backbone, heads, dtype=compute.dtype, rngs=rngs)
