"""From labels and a seed to images; pure functions for any jit, mesh or pmap."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rae_jax.diffusion.sampler import Sampler
from rae_jax.layers.functional import Definition
from rae_jax.ops.images import to_uint8
from rae_jax.typing import Array, Float, Int, Key, Tree, UInt8

Weights = Mapping[str, tuple[Tree, Tree]]
"""Model -> its parameters and buffers."""


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """Pure `(weights, autoencoder tree, key, index, labels) -> uint8 images`.

    Attributes:
        denoiser: Split into parameters and buffers.
        autoencoder: Split into one frozen tree.
        sampler: How noise becomes latents.
        guide: The weaker denoiser of autoguidance, split as the denoiser.
    """

    denoiser: Definition[Any]
    autoencoder: Definition[Any]
    sampler: Sampler
    guide: Definition[Any] | None = None

    def __call__(
        self,
        weights: Weights,
        frozen: Tree,
        key: Key[Array, ""],
        index: Int[Array, " B"],
        labels: Int[Array, " B"],
        guidance_scale: Float[Array, " B"] | None = None,
    ) -> UInt8[Array, "B H W 3"]:
        """Images of the samples number `index`; each depends on key, number, label, scale alone.

        Args:
            weights: Parameters and buffers of the "denoiser", and of the "guide" if there is one.
            frozen: The autoencoder's arrays.
            key: Of the noise of all samples.
            index: Number of each sample.
            labels: Class of each sample.
            guidance_scale: One scale per sample, in place of the sampler's one for all.
        """
        latents = self.latents(weights, key, index, labels, guidance_scale)
        return to_uint8(self.autoencoder.merge(frozen).decode(latents))

    def latents(
        self,
        weights: Weights,
        key: Key[Array, ""],
        index: Int[Array, " B"],
        labels: Int[Array, " B"],
        guidance_scale: Float[Array, " B"] | None = None,
    ) -> Float[Array, "B h w C"]:
        """Latents of the same samples."""
        denoiser = self.denoiser.merge(*weights["denoiser"])
        guide = None if self.guide is None else self.guide.merge(*weights["guide"])
        return self.sampler(
            denoiser, key, index, labels, guide=guide, guidance_scale=guidance_scale
        )
