"""Deep compression autoencoder, DC-AE (Chen 2024, arXiv:2410.10733), as in diffusers."""

import os
from typing import Any

import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.dc_blocks import (
    ACTIVATIONS,
    ChannelRMSNorm,
    Downsample,
    EfficientViTBlock,
    ResidualBlock,
    Upsample,
    convolution,
)
from rae_jax.layers.stack import scan_layers, stack_layers
from rae_jax.models.autoencoders.base import require_class
from rae_jax.models.autoencoders.dc_config import (
    CLASS_NAME,
    INTERPOLATE,
    RESIDUAL,
    UNSHUFFLE,
    DCConfig,
    Stage,
)
from rae_jax.models.autoencoders.options import ConvolutionalOptions, require_whole_latents
from rae_jax.ops.images import from_signed, to_signed
from rae_jax.ops.space_depth import average_channels, repeat_channels
from rae_jax.typing import Array, DTypeLike, Float, Key


class _Blocks(nnx.Module):
    """The blocks of one stage, stacked."""

    def __init__(
        self,
        stage: Stage,
        head_dim: int,
        *,
        dtype: DTypeLike,
        unroll: int,
        remat: str,
        rngs: nnx.Rngs,
    ):
        self.unroll, self.remat = unroll, remat

        def block(rngs: nnx.Rngs) -> ResidualBlock | EfficientViTBlock:
            options: dict[str, Any] = {"norm": stage.norm, "dtype": dtype, "rngs": rngs}
            if stage.block_type == RESIDUAL:
                return ResidualBlock(stage.channels, activation=stage.activation, **options)
            return EfficientViTBlock(stage.channels, head_dim, stage.kernel_sizes, **options)

        self.layers = stack_layers(block, stage.depth, rngs)

    def __call__(self, maps: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return scan_layers(
            lambda maps, block: block(maps),
            self.layers,
            maps,
            unroll=self.unroll,
            remat=self.remat,
        )


class DCEncoder(nnx.Module):
    """Images to latents: stages of blocks, each step between them halves the sides."""

    def __init__(
        self,
        config: DCConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        unroll: int = 1,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        """Builds the encoder.

        Args:
            config: Options, of which those of the decoder are not used.
            dtype: Compute dtype; parameters are float32.
            unroll: Blocks per iteration of the loop over a stage's blocks.
            remat: What the backward pass recomputes, see `scan_layers`.
            rngs: Source of the initial parameters.
        """
        self.latent_channels, self.shortcut = config.latent_channels, config.encoder_out_shortcut
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        unshuffle = config.downsample_block_type == UNSHUFFLE
        full, *_ = stages = config.encoder_stages
        if full.depth:
            self.input = convolution(config.in_channels, full.channels, **options)
        else:
            stages = stages[1:]
            self.input = Downsample(
                config.in_channels,
                stages[0].channels,
                unshuffle=unshuffle,
                shortcut=False,
                **options,
            )
        self.stages = nnx.List(
            _Blocks(stage, config.attention_head_dim, unroll=unroll, remat=remat, **options)
            for stage in stages
        )
        self.steps = nnx.List(
            Downsample(
                before.channels, after.channels, unshuffle=unshuffle, shortcut=True, **options
            )
            for before, after in zip(stages, stages[1:], strict=False)
        )
        self.output = convolution(stages[-1].channels, config.latent_channels, **options)

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
        """Latents of pixels in [-1, 1], in the compute dtype and not scaled."""
        maps = self.stages[0](self.input(pixels))
        for step, stage in zip(self.steps, self.stages[1:], strict=True):
            maps = stage(step(maps))
        latents = self.output(maps)
        if self.shortcut:
            latents += average_channels(maps, self.latent_channels)
        return latents


class DCDecoder(nnx.Module):
    """Latents to images: the stages the other way round, each step doubles the sides."""

    def __init__(
        self,
        config: DCConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        unroll: int = 1,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        """Builds the decoder; see `DCEncoder`."""
        self.shortcut = config.decoder_in_shortcut
        self.activation = ACTIVATIONS[config.decoder_conv_act_fn.lower()]
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        interpolate = config.upsample_block_type == INTERPOLATE
        full, *_ = stages = config.decoder_stages
        if not full.depth:
            stages = stages[1:]
        first, last = stages[0].channels, stages[-1].channels
        self.input = convolution(config.latent_channels, last, **options)
        self.stages = nnx.List(
            _Blocks(stage, config.attention_head_dim, unroll=unroll, remat=remat, **options)
            for stage in stages
        )
        self.steps = nnx.List(
            Upsample(
                before.channels, after.channels, interpolate=interpolate, shortcut=True, **options
            )
            for after, before in zip(stages, stages[1:], strict=False)
        )
        self.norm = ChannelRMSNorm(first)
        if full.depth:
            self.output = convolution(first, config.in_channels, **options)
        else:
            self.output = Upsample(
                first, config.in_channels, interpolate=interpolate, shortcut=False, **options
            )
        self.width = last

    def __call__(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Pixels around [-1, 1] of latents that are not scaled, in the compute dtype."""
        maps = self.input(latents)
        if self.shortcut:
            maps += repeat_channels(latents, self.width).astype(maps.dtype)
        maps = self.stages[-1](maps)
        for index in reversed(range(len(self.steps))):
            maps = self.stages[index](self.steps[index](maps))
        return self.output(self.activation(self.norm(maps)))


class AutoencoderDC(nnx.Module):
    """Images to strongly compressed latents and back.

    All weights are `Param`s, and the statistics of batch norms `Buffer`s; `freeze` makes both
    `Frozen` for stage 2. Batch norms always use the statistics of their training.
    """

    def __init__(
        self,
        config: DCConfig,
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
            options: What changes no parameter.
            dtype: Compute dtype; parameters, norms and attention are float32.
            unroll: Blocks per iteration of the loop over a stage's blocks.
            remat: What the backward pass recomputes, see `scan_layers`.
            rngs: Source of the initial parameters.

        Raises:
            ValueError: Tiles do not consist of whole latents.
        """
        self.config, self.options = config, options or ConvolutionalOptions()
        if self.options.tiling is not None:
            self.options.tiling.require_multiples(config.compression)
        self.encoder = DCEncoder(config, dtype=dtype, unroll=unroll, remat=remat, rngs=rngs)
        self.decoder = DCDecoder(config, dtype=dtype, unroll=unroll, remat=remat, rngs=rngs)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> "AutoencoderDC":
        """Loads what diffusers wrote; see `rae_jax.pretrained.load_autoencoder`.

        Args:
            name: Folder or hub repository ("mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers").
            **options: `dtype`, `mesh`, `revision`, `slice_size`, `unroll`, `remat`.

        Raises:
            ValueError: It holds another autoencoder, or files do not fit together.
        """
        # The one import upwards: here is where users look for it.
        from rae_jax.pretrained import load_autoencoder

        return require_class(cls, load_autoencoder(name, **options), name)

    @classmethod
    def from_single_file(
        cls, path: str | os.PathLike[str], config: Any = None, **options: Any
    ) -> "AutoencoderDC":
        """Loads a file of the original release.

        Args:
            path: `model.safetensors` of a release, or the weight file of diffusers.
            config: A `DCConfig`, the contents of a `config.json`, its path, a folder or hub
                repository with one, or the name of a release ("dc-ae-f32c32-in-1.0"). None
                assumes the release with such entries; the "in" and "mix" releases share theirs
                and differ in the scaling factor, so then "mix" is assumed with a warning.
            **options: `dtype`, `mesh`, `slice_size`, `unroll`, `remat`.

        Raises:
            ValueError: No release has such entries, or the options do not fit them.
        """
        from rae_jax.pretrained import load_single_file

        return require_class(cls, load_single_file(CLASS_NAME, path, config, **options), path)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes a folder that diffusers' `AutoencoderDC.from_pretrained` reads.

        Args:
            folder: Made if need be.
        """
        from rae_jax.pretrained import save_autoencoder

        save_autoencoder(folder, self)

    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """Reconstructions, not clipped."""
        return self.decode_features(self.features(images))

    def features(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
        """Latents that are not scaled, as diffusers' `encode` gives them.

        Args:
            images: In [0, 1]; sides must be multiples of `config.compression`.

        Returns:
            float32.

        Raises:
            ValueError: For images of another size.
        """
        require_whole_latents(self.config.compression, *images.shape[1:3])
        latents = self.options.encode(self.encoder, to_signed(images), self.config.compression)
        return latents.astype(jnp.float32)

    def encode(
        self, images: Float[Array, "B H W 3"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "B h w C"]:
        """Latents as stage 2 trains on them: `features` times the scaling factor.

        Nothing is random in it, so `key` changes nothing.
        """
        del key
        return self.features(images) * self.config.scaling_factor

    def decode(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Images of latents as `encode` gives them: float32 around [0, 1], not clipped."""
        return self.decode_features(latents / self.config.scaling_factor)

    def decode_features(self, features: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Images of latents that are not scaled."""
        pixels = self.options.decode(self.decoder, features, self.config.compression)
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
