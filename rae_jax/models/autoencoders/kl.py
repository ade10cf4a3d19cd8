"""Variational autoencoder of latent diffusion (Rombach 2022, arXiv:2112.10752), as in diffusers."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.dc_blocks import ACTIVATIONS, convolution
from rae_jax.layers.resnet_blocks import (
    EnlargingConvolution,
    MapNorm,
    MiddleBlock,
    ResnetBlock,
    StridedConvolution,
)
from rae_jax.models.autoencoders.base import LatentMoments, require_class
from rae_jax.models.autoencoders.kl_config import CLASS_NAME, KLConfig
from rae_jax.models.autoencoders.options import ConvolutionalOptions, require_whole_latents
from rae_jax.models.autoencoders.posterior import DiagonalGaussian
from rae_jax.ops.images import from_signed, to_signed
from rae_jax.typing import Array, DTypeLike, Float, Key


class _Level(nnx.Module):
    """Resnet blocks of one size of maps."""

    def __init__(
        self,
        channels: int,
        width: int,
        count: int,
        config: KLConfig,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.blocks = nnx.List(
            ResnetBlock(
                width if index else channels,
                width,
                config.norm_num_groups,
                ACTIVATIONS[config.act_fn.lower()],
                dtype=dtype,
                rngs=rngs,
            )
            for index in range(count)
        )

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        for block in self.blocks:
            maps = block(maps)
        return maps


def _middle(config: KLConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> MiddleBlock:
    return MiddleBlock(
        config.block_out_channels[-1],
        config.norm_num_groups,
        ACTIVATIONS[config.act_fn.lower()],
        has_attention=config.mid_block_add_attention,
        dtype=dtype,
        rngs=rngs,
    )


class KLEncoder(nnx.Module):
    """Pixels to means and logarithms of variances; each step between levels halves the sides."""

    def __init__(self, config: KLConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Builds the encoder.

        Args:
            config: Options.
            dtype: Compute dtype; parameters and norms are float32.
            rngs: Source of the initial parameters.
        """
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        first, *_ = widths = config.block_out_channels
        self.input = convolution(3, first, **options)
        self.levels = nnx.List(
            _Level(before, width, config.layers_per_block, config, **options)
            for before, width in zip((first, *widths), widths, strict=False)
        )
        self.steps = nnx.List(StridedConvolution(width, **options) for width in widths[:-1])
        self.middle = _middle(config, **options)
        self.norm = MapNorm(widths[-1], config.norm_num_groups, rngs=rngs)
        self.output = convolution(widths[-1], 2 * config.latent_channels, **options)

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        """Moments of pixels in [-1, 1], in the compute dtype."""
        maps = self.levels[0](self.input(pixels))
        for step, level in zip(self.steps, self.levels[1:], strict=True):
            maps = level(step(maps))
        return self.output(jax.nn.silu(self.norm(self.middle(maps))))


class KLDecoder(nnx.Module):
    """Latents to pixels: the levels the other way round, each step doubles the sides."""

    def __init__(self, config: KLConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Builds the decoder; see `KLEncoder`."""
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        widths = config.block_out_channels[::-1]
        self.input = convolution(config.latent_channels, widths[0], **options)
        self.middle = _middle(config, **options)
        self.levels = nnx.List(
            _Level(before, width, config.layers_per_block + 1, config, **options)
            for before, width in zip((widths[0], *widths), widths, strict=False)
        )
        self.steps = nnx.List(EnlargingConvolution(width, **options) for width in widths[:-1])
        self.norm = MapNorm(widths[-1], config.norm_num_groups, rngs=rngs)
        self.output = convolution(widths[-1], 3, **options)

    def __call__(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Pixels around [-1, 1] of latents that are neither shifted nor scaled."""
        maps = self.levels[0](self.middle(self.input(latents)))
        for step, level in zip(self.steps, self.levels[1:], strict=True):
            maps = level(step(maps))
        return self.output(jax.nn.silu(self.norm(maps)))


class AutoencoderKL(nnx.Module):
    """Images to a normal distribution of latents, and latents back to images.

    All weights are `Param`s; `freeze` makes them `Frozen` for stage 2.
    """

    def __init__(
        self,
        config: KLConfig,
        *,
        options: ConvolutionalOptions | None = None,
        dtype: DTypeLike = jnp.float32,
        unroll: int = 1,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        """Builds both halves with fresh parameters.

        Args:
            config: Sizes and kinds of everything.
            options: What changes no parameter, as of `AutoencoderDC`.
            dtype: Compute dtype; parameters, norms and attention's softmax are float32. With
                `config.force_upcast` float16 becomes float32.
            unroll: Of no use: no two blocks in a row are alike. As of all autoencoders.
            remat: Likewise.
            rngs: Source of the initial parameters.

        Raises:
            ValueError: Tiles do not consist of whole latents.
        """
        del unroll, remat
        self.config, self.options = config, options or ConvolutionalOptions()
        if self.options.tiling is not None:
            self.options.tiling.require_multiples(config.compression)
        if config.force_upcast and jnp.dtype(dtype) == jnp.float16:
            dtype = jnp.float32
        channels = config.latent_channels
        self.encoder = KLEncoder(config, dtype=dtype, rngs=rngs)
        self.decoder = KLDecoder(config, dtype=dtype, rngs=rngs)

        def point(width: int) -> nnx.Linear:
            return nnx.Linear(width, width, dtype=dtype, rngs=rngs)

        self.quant = nnx.data(point(2 * channels) if config.use_quant_conv else None)
        self.post_quant = nnx.data(point(channels) if config.use_post_quant_conv else None)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> "AutoencoderKL":
        """Loads what diffusers wrote; see `rae_jax.pretrained.load_autoencoder`.

        Args:
            name: Folder or hub repository ("stabilityai/sd-vae-ft-mse").
            **options: `dtype`, `mesh`, `revision`, `subfolder` ("vae" of a pipeline),
                `slice_size`, `tiling`.

        Raises:
            ValueError: It holds another autoencoder, or files do not fit together.
        """
        # The one import upwards: here is where users look for it.
        from rae_jax.pretrained import load_autoencoder

        return require_class(cls, load_autoencoder(name, **options), name)

    @classmethod
    def from_single_file(
        cls, path: str | os.PathLike[str], config: Any = None, **options: Any
    ) -> "AutoencoderKL":
        """Loads a file in the layout of CompVis' latent diffusion.

        Args:
            path: File of the autoencoder, or a whole checkpoint of latent diffusion with it under
                `first_stage_model.` or `vae.`; or the weight file of diffusers.
            config: A `KLConfig`, the contents of a `config.json`, its path, a folder or hub
                repository with one, or the name of a release ("sdxl-vae"). None assumes the
                release with such entries, with a warning, as several share theirs and differ in
                scaling and shift.
            **options: `dtype`, `mesh`, `slice_size`, `tiling`.

        Raises:
            ValueError: No release has such entries, or the options do not fit them.
        """
        from rae_jax.pretrained import load_single_file

        return require_class(cls, load_single_file(CLASS_NAME, path, config, **options), path)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes a folder that diffusers' `AutoencoderKL.from_pretrained` reads.

        Args:
            folder: Made if need be.
        """
        from rae_jax.pretrained import save_autoencoder

        save_autoencoder(folder, self)

    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """Reconstructions of the likeliest latents, not clipped."""
        return self.decode_features(self.features(images))

    def posterior(self, images: Float[Array, "B H W 3"]) -> DiagonalGaussian:
        """Distribution of the latents that are neither shifted nor scaled.

        Args:
            images: In [0, 1]; sides must be multiples of `config.compression`.

        Raises:
            ValueError: For images of another size.
        """
        require_whole_latents(self.config.compression, *images.shape[1:3])
        moments = self.options.encode(self._encoder, to_signed(images), self.config.compression)
        return DiagonalGaussian.of_moments(moments)

    def features(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
        """The likeliest latents, as diffusers' `encode(...).latent_dist.mode()` gives them."""
        return self.posterior(images).mode()

    def latent_moments(self, images: Float[Array, "B H W 3"]) -> LatentMoments:
        """Mean and deviation of the latents as stage 2 trains on them."""
        posterior = self.posterior(images)
        shift, scale = self._shift_and_scale()
        return LatentMoments((posterior.mean - shift) * scale, posterior.std * scale)

    def encode(
        self, images: Float[Array, "B H W 3"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "B h w C"]:
        """Latents as stage 2 trains on them: (latents - shift) * scale.

        Args:
            images: See `posterior`.
            key: Draws them; None takes the likeliest.
        """
        moments = self.latent_moments(images)
        return moments.mean if key is None else moments.draw(key, jnp.arange(len(images)))

    def decode(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Images of latents as `encode` gives them: float32 around [0, 1], not clipped."""
        shift, scale = self._shift_and_scale()
        return self.decode_features(latents / scale + shift)

    def decode_features(self, features: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Images of latents that are neither shifted nor scaled."""
        pixels = self.options.decode(self._decoder, features, self.config.compression)
        return from_signed(pixels.astype(jnp.float32))

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """(h, w, C) of the latents of square images.

        Raises:
            ValueError: For a size that is no multiple of `config.compression`.
        """
        step = self.config.compression
        require_whole_latents(step, image_size)
        side = image_size // step
        return side, side, self.config.latent_channels

    def _shift_and_scale(self) -> tuple[Float[np.ndarray, "1 1 1 C"], Float[np.ndarray, "1 1 1 C"]]:
        """As pipelines of diffusers have them."""
        config = self.config
        shape = (1, 1, 1, config.latent_channels)
        shift, scale = np.full(shape, config.shift_factor or 0.0), np.full(shape, 1.0)
        if config.latents_mean is not None and config.latents_std is not None:
            shift = np.reshape(config.latents_mean, shape)
            scale = 1 / np.reshape(config.latents_std, shape)
        return shift.astype(np.float32), (config.scaling_factor * scale).astype(np.float32)

    def _encoder(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        moments = self.encoder(pixels)
        return moments if self.quant is None else self.quant(moments)

    def _decoder(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        return self.decoder(latents if self.post_quant is None else self.post_quant(latents))
