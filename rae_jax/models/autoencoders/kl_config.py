"""Options of diffusers' AutoencoderKL, and the published ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rae_jax.layers.dc_blocks import ACTIVATIONS
from rae_jax.models.autoencoders.config_file import entries_of
from rae_jax.models.autoencoders.tiling import Tiling

CLASS_NAME = "AutoencoderKL"

_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
_STEP = 2
_OVERLAP = 0.25
_ACTIVATION_NAMES = tuple(name for name in ACTIVATIONS if name is not None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLConfig:
    """Contents of a `config.json` of diffusers' AutoencoderKL; names and defaults are its own.

    Attributes:
        in_channels: Of the images, 3.
        out_channels: Of the reconstructions, 3.
        down_block_types: "DownEncoderBlock2D" for every level.
        up_block_types: "UpDecoderBlock2D" for every level.
        block_out_channels: Width of every level, from full size down.
        layers_per_block: Resnet blocks of a level of the encoder; the decoder has one more.
        act_fn: Activation of the resnet blocks; the last one before the output is always SiLU.
        latent_channels: Of the latents.
        norm_num_groups: Of every norm; divides every width.
        sample_size: Side of images that are not cut where tiles are asked for; of a list the
            first counts.
        scaling_factor: What latents are multiplied by for stage 2, once they are shifted.
        shift_factor: What is taken off latents before; null for nothing.
        latents_mean: Per channel, in place of `shift_factor` if given, as in pipelines.
        latents_std: Per channel; divides the scaling factor. Comes with `latents_mean`.
        force_upcast: Whether pipelines compute in float32 where float16 was asked for.
        use_quant_conv: Whether a 1 x 1 convolution follows the encoder.
        use_post_quant_conv: Whether one goes before the decoder.
        mid_block_add_attention: Whether there is attention at the lowest level.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = (_DOWN,)
    up_block_types: tuple[str, ...] = (_UP,)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, ...] = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for options that do not fit together; the message says which."""
        for name in ("in_channels", "out_channels"):
            self._require(name, getattr(self, name) == 3, "be 3")
        self._require("scaling_factor", self.scaling_factor > 0, "be above 0")
        self._require(
            "act_fn", self.act_fn.lower() in _ACTIVATION_NAMES, f"be one of {_ACTIVATION_NAMES}"
        )
        levels = len(self.block_out_channels)
        for name, known in (("down_block_types", _DOWN), ("up_block_types", _UP)):
            fits = getattr(self, name) == (known,) * levels
            self._require(name, fits, f"be {levels} times {known!r}, once per level")
        for name in ("layers_per_block", "latent_channels", "norm_num_groups"):
            self._require(name, getattr(self, name) > 0, "be above 0")
        divides = all(width % self.norm_num_groups == 0 for width in self.block_out_channels)
        self._require(
            "norm_num_groups", divides, f"divide every width of {self.block_out_channels}"
        )
        together = (self.latents_mean is None) == (self.latents_std is None)
        self._require("latents_std", together, "be given together with latents_mean")
        for name in ("latents_mean", "latents_std"):
            value = getattr(self, name)
            fits = value is None or len(value) == self.latent_channels
            self._require(name, fits, f"have {self.latent_channels} numbers, one per channel")

    def _require(self, name: str, holds: bool, must: str) -> None:
        if not holds:
            raise ValueError(f"{name} must {must}, got {getattr(self, name)!r}")

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "KLConfig":
        """Reads the contents of a `config.json`.

        Raises:
            ValueError: It is of another class, has unknown entries, or options that do not fit.
        """
        values = entries_of(content, CLASS_NAME, dataclasses.fields(cls))
        for name, value in values.items():
            _require_type(name, value)
        return cls(**{name: _value(name, value) for name, value in values.items()})

    def write(self) -> dict[str, Any]:
        """Contents of a `config.json` that `read` and diffusers read."""
        return {"_class_name": CLASS_NAME, **dataclasses.asdict(self)}

    @property
    def compression(self) -> int:
        """Pixels per latent, on each side."""
        return _STEP ** (len(self.block_out_channels) - 1)

    @property
    def tiling(self) -> Tiling:
        """The tiles that diffusers cuts where it is told to: of `sample_size`, a quarter shared."""
        size = self.sample_size if isinstance(self.sample_size, int) else self.sample_size[0]
        latents = size // self.compression
        stride = int(latents * (1 - _OVERLAP)) * self.compression
        return Tiling((size, size), (stride, stride))


_NUMBERS = ("latents_mean", "latents_std")
_LISTS = ("down_block_types", "up_block_types", "block_out_channels")
_SWITCHES = ("force_upcast", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention")


def _require_type(name: str, value: Any) -> None:
    """A value of a file is of the kind that its entry takes."""
    if name in _SWITCHES:
        fits, wanted = isinstance(value, bool), "true or false"
    elif name == "act_fn":
        fits, wanted = isinstance(value, str), "a name"
    elif name in _LISTS:
        kind = int if name == "block_out_channels" else str
        fits = isinstance(value, list | tuple) and bool(value)
        fits = fits and all(type(item) is kind for item in value)
        wanted = f"a list of {'whole numbers' if kind is int else 'names'}, one per level"
    elif name in _NUMBERS:
        fits = value is None or (
            isinstance(value, list | tuple) and all(type(v) in (int, float) for v in value)
        )
        wanted = "null or a list of numbers"
    elif name in ("scaling_factor", "shift_factor"):
        empty = name == "shift_factor" and value is None
        fits, wanted = empty or type(value) in (int, float), "a number"
    else:
        several = name == "sample_size" and isinstance(value, list | tuple)
        fits, wanted = several or (type(value) is int and value > 0), "a whole number above 0"
    if not fits:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def _value(name: str, value: Any) -> Any:
    """The value as the options hold it: JSON writes 1.0 as 1, and tuples as lists."""
    numbers = name in (*_NUMBERS, "scaling_factor", "shift_factor")
    if isinstance(value, list | tuple):
        return tuple(float(item) if numbers else item for item in value)
    return float(value) if numbers and value is not None else value


def _published(**options: Any) -> KLConfig:
    return KLConfig(
        down_block_types=(_DOWN,) * 4,
        up_block_types=(_UP,) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        **options,
    )


def _wide(scaling_factor: float, shift_factor: float) -> KLConfig:
    """Of 16 channels and without convolutions between encoder, latents and decoder."""
    return _published(
        latent_channels=16,
        sample_size=1024,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


RELEASED: Mapping[str, KLConfig] = {
    "sd-vae-ft-mse": _published(sample_size=256),
    "sdxl-vae": _published(sample_size=1024, scaling_factor=0.13025),
    "flux-vae": _wide(0.3611, 0.1159),
    "sd3-vae": _wide(1.5305, 0.0609),
}
"""Options of the published autoencoders; the first of those that share their entries is assumed
of a single file."""
