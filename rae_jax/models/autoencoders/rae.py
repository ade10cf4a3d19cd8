"""Representation autoencoder: a frozen encoder, a trained decoder (RAE, arXiv:2510.11690)."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.functional import freeze
from rae_jax.models.autoencoders.base import require_class
from rae_jax.models.autoencoders.latent_normalization import Normalization
from rae_jax.models.autoencoders.slicing import in_slices, require_slice_size
from rae_jax.models.decoders.vit_decoder import ViTDecoder
from rae_jax.models.encoders.base import Encoder
from rae_jax.ops.images import denormalize, normalize, resize_bicubic
from rae_jax.typing import Array, Float, Key

FeatureNoise = Callable[[Array, Array], Array]
"""(features, key) -> noisy features."""


@dataclasses.dataclass(frozen=True)
class RAEOptions:
    """What changes neither the parameters nor the values of an autoencoder.

    Attributes:
        reshape_to_2d: Whether latents are grids [B, h, w, C]; otherwise tokens [B, N, C].
        use_encoder_loss: Whether training also compares the features of reconstructions.
        slice_size: Images that go through encoder and decoder at a time, one slice after another
            in the same compiled function, which bounds memory; None takes the whole batch.
    """

    reshape_to_2d: bool = True
    use_encoder_loss: bool = False
    slice_size: int | None = None

    def __post_init__(self) -> None:
        """Rejects a slice of no images."""
        require_slice_size(self.slice_size)


class AutoencoderRAE(nnx.Module):
    """Images to encoder features, normalised by latent statistics, and back by a decoder.

    The encoder's Variables become `Frozen`; the decoder's stay trainable `Param`s.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: ViTDecoder | None,
        *,
        encoder_input_size: int,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
        normalization: Normalization | None = None,
        noise: FeatureNoise | None = None,
        options: RAEOptions | None = None,
    ):
        """Joins the parts.

        Args:
            encoder: Frozen in place.
            decoder: Takes the encoder's width; None makes an autoencoder that only encodes.
            encoder_input_size: Side that images are resized to before the encoder.
            image_mean: The encoder's image mean per channel.
            image_std: The encoder's image deviation per channel.
            normalization: Latent statistics; None leaves the features as they are.
            noise: What `encode` does to features when it is given a key. It must compare equal
                between instances that do the same (a function, or a frozen dataclass).
            options: What changes neither parameters nor latents' values.

        Raises:
            ValueError: If the parts do not fit together.
        """
        if encoder_input_size % encoder.patch_size:
            raise ValueError(
                f"encoder_input_size must be a multiple of the encoder's patch size "
                f"{encoder.patch_size}, got {encoder_input_size}"
            )
        if decoder is not None and decoder.config.latent_channels != encoder.hidden_size:
            raise ValueError(
                f"the decoder's latent_channels must be the encoder's width "
                f"{encoder.hidden_size}, got {decoder.config.latent_channels}"
            )
        self.encoder = freeze(encoder)
        self.decoder = nnx.data(decoder)
        self.encoder_input_size = encoder_input_size
        self.image_mean, self.image_std = image_mean, image_std
        self.normalization = nnx.data(normalization)
        self.noise = noise
        self.options = options or RAEOptions()
        if normalization is not None:
            normalization.require_shape(self.latent_shape(encoder_input_size))

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> "AutoencoderRAE":
        """Loads a published or a trained autoencoder; see `rae_jax.pretrained.load_autoencoder`.

        Args:
            name: Folder or hub repository that diffusers wrote, work folder of a stage-1 run, or,
                with `decoder=` a file of the RAE collections, an encoder's folder or repository.
            **options: `dtype`, `mesh`, `revision`, and those of the chosen kind of source.

        Raises:
            ValueError: It holds an autoencoder of another class.
        """
        # The one import upwards: here is where users look for it.
        from rae_jax.pretrained import load_autoencoder

        return require_class(cls, load_autoencoder(name, **options), name)

    def save_pretrained(self, folder: str | os.PathLike[str], *, style: str | None = None) -> None:
        """Writes a folder that diffusers' `AutoencoderRAE.from_pretrained` reads.

        Args:
            folder: Made if need be.
            style: "transformers4" or "transformers5", see `weights.autoencoders.to_diffusers`.

        Raises:
            ValueError: diffusers cannot express this autoencoder; the message lists why.
        """
        from rae_jax.pretrained import save_autoencoder

        save_autoencoder(folder, self, style=style)

    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B H2 W2 3"]:
        """Reconstructions, without noise, not clipped."""
        return self.decode_features(self.features(images))

    def features(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
        """The encoder's features.

        Args:
            images: In [0, 1], any size; others than `encoder_input_size` squared are resized to
                it (bicubic without antialias, aspect not kept, overshoots kept).

        Returns:
            float32, not normalised by the latent statistics.
        """
        return in_slices(self._features, images, self.options.slice_size)

    def encode(
        self, images: Float[Array, "B H W 3"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "B ..."]:
        """Latents of images; noise is added only if the autoencoder has one and a key is given.

        Returns:
            [B, h, w, C], or [B, N, C] unless `options.reshape_to_2d`.
        """
        latents = self.features(images)
        if self.noise is not None and key is not None:
            latents = self.noise(latents, key)
        if self.normalization is not None:
            latents = self.normalization.normalize(latents)
        if self.options.reshape_to_2d:
            return latents
        return latents.reshape(latents.shape[0], -1, latents.shape[-1])

    def decode(self, latents: Float[Array, "B ..."]) -> Float[Array, "B H W 3"]:
        """Images of latents as `encode` gives them: float32 around [0, 1], not clipped."""
        shape = self.latent_shape(self.encoder_input_size)
        if not self.options.reshape_to_2d:
            wanted = shape[0] * shape[1], shape[2]
            if latents.shape[1:] != wanted:
                raise ValueError(f"tokens must have the shape {wanted}, got {latents.shape[1:]}")
            latents = latents.reshape(-1, *shape)
        if self.normalization is not None:
            latents = self.normalization.denormalize(latents)
        return self.decode_features(latents)

    def decode_features(self, features: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Images of features that are not normalised by the latent statistics.

        Raises:
            ValueError: The autoencoder has no decoder.
        """
        pixels = in_slices(self._decoder(), features, self.options.slice_size)
        return denormalize(pixels.astype(jnp.float32), self.image_mean, self.image_std)

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """(h, w, C) of the latents: the same for every image size, as images are resized."""
        del image_size
        side = self.encoder_input_size // self.encoder.patch_size
        return side, side, self.encoder.hidden_size

    @property
    def image_size(self) -> int:
        """Side of the images that `decode` gives.

        Raises:
            ValueError: The autoencoder has no decoder.
        """
        decoder = self._decoder()
        return decoder.config.grid[0] * decoder.config.patch_size

    def _decoder(self) -> ViTDecoder:
        if self.decoder is None:
            raise ValueError("this autoencoder only encodes; give it a decoder")
        return self.decoder

    def _features(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
        side = self.encoder_input_size
        if images.shape[1:3] != (side, side):
            images = resize_bicubic(images, side, side)
        return self.encoder(normalize(images, self.image_mean, self.image_std))
