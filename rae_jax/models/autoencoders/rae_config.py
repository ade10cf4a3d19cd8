"""Options of diffusers' AutoencoderRAE, and what its parts are made of."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from rae_jax.models.autoencoders.config_file import entries_of
from rae_jax.models.decoders.vit_decoder import DecoderConfig
from rae_jax.models.encoders.dinov2 import DINOv2Config
from rae_jax.models.encoders.mae import MAEConfig
from rae_jax.models.encoders.siglip2 import SigLIP2Config
from rae_jax.models.encoders.vision_transformer import VisionTransformerConfig

CLASS_NAME = "AutoencoderRAE"

EncoderConfig = DINOv2Config | MAEConfig | SigLIP2Config

_HEAD_DIM = 64
_POSITION_EXTENT = 16.0
_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_ENCODERS: Mapping[str, type[EncoderConfig]] = {
    "dinov2": DINOv2Config,
    "siglip2": SigLIP2Config,
    "mae": MAEConfig,
}
# The sizes that the file does not name are those of the classes that diffusers builds.
_IMAGE_SIZES = {"dinov2": 518, "siglip2": 256, "mae": 224}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RAEConfig:
    """Contents of a `config.json` of diffusers' AutoencoderRAE; names and defaults are its own.

    Attributes:
        encoder_type: "dinov2" (with registers), "siglip2" or "mae".
        encoder_hidden_size: Width of the features; heads are 64 wide.
        encoder_patch_size: Side of the encoder's patches.
        encoder_num_hidden_layers: Blocks of the encoder.
        decoder_hidden_size: Width of the decoder.
        decoder_num_hidden_layers: Blocks of the decoder.
        decoder_num_attention_heads: Heads of the decoder.
        decoder_intermediate_size: Inner width of the decoder's feed-forward layers.
        patch_size: Side of the square of pixels that a latent becomes.
        encoder_input_size: Side that images are resized to before they are encoded.
        image_size: Side of the images that come out; None follows from the others.
        num_channels: Of the images, 3.
        encoder_norm_mean: Image mean per channel; None is ImageNet's.
        encoder_norm_std: Image deviation per channel; None is ImageNet's.
        latents_mean: Nested lists, shaped to broadcast over [C, h, w] ([N, C] for tokens).
        latents_std: Likewise.
        noise_tau: Strength of the noise on features in training.
        reshape_to_2d: Whether latents are grids; otherwise tokens.
        use_encoder_loss: Whether training also compares features of reconstructions.
        scaling_factor: What normalised latents are multiplied by.
    """

    encoder_type: str = "dinov2"
    encoder_hidden_size: int = 768
    encoder_patch_size: int = 14
    encoder_num_hidden_layers: int = 12
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    patch_size: int = 16
    encoder_input_size: int = 224
    image_size: int | None = None
    num_channels: int = 3
    encoder_norm_mean: list[float] | None = None
    encoder_norm_std: list[float] | None = None
    latents_mean: Any = None
    latents_std: Any = None
    noise_tau: float = 0.0
    reshape_to_2d: bool = True
    use_encoder_loss: bool = False
    scaling_factor: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that do not fit together."""
        if self.encoder_type not in _ENCODERS:
            raise ValueError(
                f"encoder_type must be one of {', '.join(_ENCODERS)}, got {self.encoder_type!r}"
            )
        for whole, part in (
            ("encoder_input_size", self.encoder_patch_size),
            ("encoder_hidden_size", _HEAD_DIM),
            ("decoder_hidden_size", self.decoder_num_attention_heads),
        ):
            if getattr(self, whole) % part:
                raise ValueError(
                    f"{whole} must be a multiple of {part}, got {getattr(self, whole)}"
                )
        if self.image_size not in (None, self.output_size):
            raise ValueError(
                f"image_size must be {self.output_size} (patch_size x encoder_input_size / "
                f"encoder_patch_size) or null, got {self.image_size}"
            )
        if self.num_channels != 3:
            raise ValueError(f"num_channels must be 3, got {self.num_channels}")

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "RAEConfig":
        """Reads the contents of a `config.json`.

        Raises:
            ValueError: It is of another class, has unknown entries, or sizes that do not fit.
        """
        values = entries_of(content, CLASS_NAME, dataclasses.fields(cls))
        for field in dataclasses.fields(cls):
            value = values.get(field.name, field.default)
            if field.type in (int, "int") and (type(value) is not int or value < 1):
                raise ValueError(f"{field.name} must be a whole number above 0, got {value!r}")
        for name in ("encoder_norm_mean", "encoder_norm_std"):
            value = values.get(name)
            if value is not None and len(value) != 3:
                raise ValueError(f"{name} must hold three numbers, got {value!r}")
        return cls(**values)

    def write(self) -> dict[str, Any]:
        """Contents of a `config.json` that `read` and diffusers read."""
        return {"_class_name": CLASS_NAME, **dataclasses.asdict(self)}

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the latents."""
        side = self.encoder_input_size // self.encoder_patch_size
        return side, side

    @property
    def output_size(self) -> int:
        """Side of the images that come out."""
        return self.patch_size * self.grid[0]

    @property
    def image_mean(self) -> list[float]:
        """Image mean per channel."""
        return _IMAGENET_MEAN if self.encoder_norm_mean is None else self.encoder_norm_mean

    @property
    def image_std(self) -> list[float]:
        """Image deviation per channel."""
        return _IMAGENET_STD if self.encoder_norm_std is None else self.encoder_norm_std

    def encoder(self) -> EncoderConfig:
        """Sizes of the encoder, those that diffusers builds."""
        sizes: dict[str, Any] = {
            "hidden_size": self.encoder_hidden_size,
            "depth": self.encoder_num_hidden_layers,
            "num_heads": self.encoder_hidden_size // _HEAD_DIM,
            "patch_size": self.encoder_patch_size,
            "image_size": _IMAGE_SIZES[self.encoder_type],
        }
        return _ENCODERS[self.encoder_type](**sizes)

    def decoder(self) -> DecoderConfig:
        """Sizes of the decoder, with positions as diffusers makes them."""
        return DecoderConfig(
            hidden_size=self.decoder_hidden_size,
            depth=self.decoder_num_hidden_layers,
            num_heads=self.decoder_num_attention_heads,
            intermediate_size=self.decoder_intermediate_size,
            latent_channels=self.encoder_hidden_size,
            grid=self.grid,
            patch_size=self.patch_size,
            position_extent=_POSITION_EXTENT,
        )


def encoder_type(config: VisionTransformerConfig) -> str:
    """The `encoder_type` of an encoder.

    Raises:
        ValueError: diffusers builds none of these sizes.
    """
    name = next((name for name, cls in _ENCODERS.items() if type(config) is cls), None)
    if name is None:
        raise ValueError(f"diffusers has no encoder with a {type(config).__name__}")
    buildable = dataclasses.replace(
        RAEConfig(encoder_type=name).encoder(),
        hidden_size=config.hidden_size,
        depth=config.depth,
        num_heads=config.hidden_size // _HEAD_DIM,
        patch_size=config.patch_size,
    )
    different = [
        f"{field.name} {getattr(config, field.name)} instead of {getattr(buildable, field.name)}"
        for field in dataclasses.fields(config)
        if field.name != "layer_scale"  # Only how training starts.
        and getattr(config, field.name) != getattr(buildable, field.name)
    ]
    if different:
        raise ValueError(
            f"diffusers builds no {name} encoder with {', '.join(different)}; export encoder and "
            "decoder as separate files"
        )
    return name


def statistics_to_grid(
    values: np.ndarray, grid: tuple[int, int], *, reshape_to_2d: bool
) -> np.ndarray:
    """Latent statistics of a file as [h or 1, w or 1, C or 1].

    Args:
        values: One number, or shaped to broadcast over [C, h, w] ([N, C] for tokens).
        grid: Rows and columns of the latents.
        reshape_to_2d: Whether latents are grids.

    Raises:
        ValueError: Another shape.
    """
    if values.size == 1:
        return values.reshape(1, 1, 1)
    if reshape_to_2d and values.ndim in (3, 4) and values.shape[:-3] in ((), (1,)):
        return np.moveaxis(values.reshape(values.shape[-3:]), 0, -1)
    if not reshape_to_2d and values.ndim == 3 and len(values) == 1:
        values = values[0]
    if not reshape_to_2d and values.ndim == 1:
        return values.reshape(1, 1, -1)
    if not reshape_to_2d and values.ndim == 2 and values.shape[0] in (1, grid[0] * grid[1]):
        rows, columns = (1, 1) if values.shape[0] == 1 else grid
        return values.reshape(rows, columns, -1)
    wanted = "[C, h, w] (each may be 1)" if reshape_to_2d else "[C] or [N, C]"
    raise ValueError(f"latent statistics must be one number or {wanted}, got {values.shape}")


def statistics_to_file(values: np.ndarray, *, reshape_to_2d: bool) -> np.ndarray:
    """Inverse of `statistics_to_grid`, in the shape that files usually have."""
    if values.size == 1:
        return values.reshape(1)
    if reshape_to_2d:
        return np.ascontiguousarray(np.moveaxis(values, -1, 0))
    if values.shape[:2] == (1, 1):
        return values.reshape(-1)
    return values.reshape(-1, values.shape[-1])
