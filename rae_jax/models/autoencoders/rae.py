"""Representation autoencoder: a frozen encoder, a trained decoder (RAE, arXiv:2510.11690)."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.functional import freeze
from rae_jax.models.autoencoders.latent_normalization import LatentNormalization
from rae_jax.models.decoders.vit_decoder import ViTDecoder
from rae_jax.models.encoders.base import Encoder
from rae_jax.ops.images import denormalize, normalize, resize_bicubic
from rae_jax.typing import Array, Float, Key

FeatureNoise = Callable[[Array, Array], Array]
"""(features, key) -> noisy features."""


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
        normalization: LatentNormalization | None = None,
        noise: FeatureNoise | None = None,
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
        shape = self.latent_shape(encoder_input_size)
        if normalization is not None and normalization.shape != shape:
            raise ValueError(
                f"the latent statistics must have the latents' shape {shape} (h, w, C), got "
                f"{normalization.shape}"
            )

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
        side = self.encoder_input_size
        if images.shape[1:3] != (side, side):
            images = resize_bicubic(images, side, side)
        return self.encoder(normalize(images, self.image_mean, self.image_std))

    def encode(
        self, images: Float[Array, "B H W 3"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "B h w C"]:
        """Latents of images; noise is added only if the autoencoder has one and a key is given."""
        features = self.features(images)
        if self.noise is not None and key is not None:
            features = self.noise(features, key)
        return features if self.normalization is None else self.normalization.normalize(features)

    def decode(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Images of latents: float32 around [0, 1], not clipped."""
        if self.normalization is not None:
            latents = self.normalization.denormalize(latents)
        return self.decode_features(latents)

    def decode_features(self, features: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Images of features that are not normalised by the latent statistics.

        Raises:
            ValueError: The autoencoder has no decoder.
        """
        if self.decoder is None:
            raise ValueError("this autoencoder only encodes; give it a decoder")
        pixels = self.decoder(features).astype(jnp.float32)
        return denormalize(pixels, self.image_mean, self.image_std)

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """(h, w, C) of the latents: the same for every image size, as images are resized."""
        del image_size
        side = self.encoder_input_size // self.encoder.patch_size
        return side, side, self.encoder.hidden_size
