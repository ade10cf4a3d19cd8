"""From labels and a seed to images; pure functions for any jit, mesh or pmap."""

import dataclasses

from rae_jax.diffusion.sampler import Sampler
from rae_jax.layers.functional import Definition
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.denoisers.dit_dh import DiTDH
from rae_jax.ops.images import to_uint8
from rae_jax.typing import Array, Float, Int, Key, Tree, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """Pure `(denoiser trees, autoencoder tree, key, index, labels) -> uint8 images`.

    Attributes:
        denoiser: Split into parameters and buffers.
        autoencoder: Split into one frozen tree.
        sampler: How noise becomes latents.
    """

    denoiser: Definition[DiTDH]
    autoencoder: Definition[AutoencoderRAE]
    sampler: Sampler

    def __call__(
        self,
        weights: tuple[Tree, Tree],
        frozen: Tree,
        key: Key[Array, ""],
        index: Int[Array, " B"],
        labels: Int[Array, " B"],
    ) -> UInt8[Array, "B H W 3"]:
        """Images of the samples number `index`; each depends on key, number and label alone."""
        latents = self.latents(weights, key, index, labels)
        return to_uint8(self.autoencoder.merge(frozen).decode(latents))

    def latents(
        self,
        weights: tuple[Tree, Tree],
        key: Key[Array, ""],
        index: Int[Array, " B"],
        labels: Int[Array, " B"],
    ) -> Float[Array, "B h w C"]:
        """Latents of the same samples."""
        denoiser = self.denoiser.merge(*weights)

        def predict(noisy_latents: Array, t: Array, labels: Array) -> Array:
            return denoiser(noisy_latents, t, labels).prediction

        # A denoiser without a null label can be sampled, though not guided.
        null_label = None if self.sampler.guidance_scale == 1 else denoiser.null_label
        return self.sampler(predict, null_label, key, index, labels)
