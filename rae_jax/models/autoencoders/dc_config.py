"""Options of diffusers' AutoencoderDC, and the published ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rae_jax.layers.dc_blocks import ACTIVATIONS, FACTOR, NORMS
from rae_jax.models.autoencoders.config_file import entries_of

CLASS_NAME = "AutoencoderDC"

RESIDUAL, EFFICIENT_VIT = "ResBlock", "EfficientViTBlock"
UNSHUFFLE, INTERPOLATE = "pixel_unshuffle", "interpolate"

_CHOICES = {
    "upsample_block_type": ("pixel_shuffle", INTERPOLATE),
    "downsample_block_type": (UNSHUFFLE, "conv"),
}
_SQUARE = FACTOR**2


@dataclasses.dataclass(frozen=True)
class Stage:
    """The blocks between two changes of size.

    Attributes:
        block_type: "ResBlock" or "EfficientViTBlock".
        channels: Of its maps.
        depth: How many blocks.
        kernel_sizes: Of the further scales of attention.
        norm: Key of `NORMS`.
        activation: Key of `ACTIVATIONS`, of residual blocks.
    """

    block_type: str
    channels: int
    depth: int
    kernel_sizes: tuple[int, ...]
    norm: str
    activation: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DCConfig:
    """Contents of a `config.json` of diffusers' AutoencoderDC; names and defaults are its own.

    What says so may hold one value for all stages or one per stage. Stages count from the one at
    full size, in the encoder and in the decoder.

    Attributes:
        in_channels: Of the images, 3.
        latent_channels: Of the latents.
        attention_head_dim: Width of the heads of EfficientViT blocks.
        encoder_block_types: "ResBlock" or "EfficientViTBlock", for all stages or per stage.
        decoder_block_types: Likewise.
        encoder_block_out_channels: Width of every stage.
        decoder_block_out_channels: Likewise.
        encoder_layers_per_block: Blocks of every stage. The first stage may have none: then the
            images are made smaller at once.
        decoder_layers_per_block: Likewise; then the images are made larger last.
        encoder_qkv_multiscales: Per stage, kernel sizes of the further scales of attention.
        decoder_qkv_multiscales: Likewise.
        upsample_block_type: "pixel_shuffle" or "interpolate".
        downsample_block_type: "pixel_unshuffle" or "conv".
        decoder_norm_types: "rms_norm" or "batch_norm", for all stages or per stage: of residual
            blocks and of attention. Everything else has RMS norms.
        decoder_act_fns: Activation of residual blocks, for all stages or per stage: "relu",
            "silu", "gelu", "mish", or null in a list for none.
        encoder_out_shortcut: Whether averaged channels of the last maps are added to the latents.
        decoder_in_shortcut: Whether repeated channels of the latents are added to the first maps.
        decoder_conv_act_fn: Activation before the decoder's last convolution.
        scaling_factor: What latents are multiplied by for stage 2.
    """

    in_channels: int = 3
    latent_channels: int = 32
    attention_head_dim: int = 32
    encoder_block_types: str | tuple[str, ...] = RESIDUAL
    decoder_block_types: str | tuple[str, ...] = RESIDUAL
    encoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    decoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder_layers_per_block: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder_layers_per_block: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    encoder_qkv_multiscales: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    decoder_qkv_multiscales: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    upsample_block_type: str = "pixel_shuffle"
    downsample_block_type: str = UNSHUFFLE
    decoder_norm_types: str | tuple[str, ...] = "rms_norm"
    decoder_act_fns: str | tuple[str | None, ...] = "silu"
    encoder_out_shortcut: bool = True
    decoder_in_shortcut: bool = True
    decoder_conv_act_fn: str = "relu"
    scaling_factor: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError for options that do not fit together; the message says which."""
        if self.in_channels != 3:
            raise ValueError(f"in_channels must be 3, got {self.in_channels}")
        if self.scaling_factor <= 0:
            raise ValueError(f"scaling_factor must be above 0, got {self.scaling_factor}")
        for name, choices in _CHOICES.items():
            _require_choice(name, getattr(self, name), choices)
        _require_choice("decoder_conv_act_fn", self.decoder_conv_act_fn.lower(), _ACTIVATION_NAMES)
        encoder, decoder = (
            len(self.encoder_block_out_channels),
            len(self.decoder_block_out_channels),
        )
        if encoder != decoder or encoder < 2:
            raise ValueError(
                "encoder_block_out_channels and decoder_block_out_channels must have the same "
                f"number of stages, at least 2, got {encoder} and {decoder}"
            )
        for side in ("encoder", "decoder"):
            self._require_stages(side)
            self._require_steps(side)

    def _require_stages(self, side: str) -> None:
        """Every stage has what it needs."""
        count = len(self.encoder_block_out_channels)
        for name in ("block_types", "layers_per_block", "qkv_multiscales", "norm_types", "act_fns"):
            value = getattr(self, f"{side}_{name}", "")
            if not isinstance(value, str) and len(value) != count:
                raise ValueError(
                    f"{side}_{name} must have {count} entries, one per stage, got {len(value)}"
                )
        for index, stage in enumerate(self._stages(side)):
            of_stage = f"of stage {index} of the {side}"
            _require_choice(f"block type {of_stage}", stage.block_type, (RESIDUAL, EFFICIENT_VIT))
            _require_choice(f"norm {of_stage}", stage.norm, tuple(NORMS))
            _require_choice(f"activation {of_stage}", stage.activation, tuple(ACTIVATIONS))
            if stage.depth < 0 or (index and not stage.depth):
                raise ValueError(
                    f"{side}_layers_per_block must be at least 1 for every stage but the first, "
                    f"which may have 0; stage {index} has {stage.depth}"
                )
            if stage.block_type == RESIDUAL or not stage.depth:
                continue
            if stage.channels < self.attention_head_dim:
                raise ValueError(
                    f"attention_head_dim must be at most the channels {of_stage}, "
                    f"{stage.channels}, got {self.attention_head_dim}"
                )
            even = [size for size in stage.kernel_sizes if size < 1 or size % 2 == 0]
            if even:
                raise ValueError(f"kernel sizes {of_stage} must be odd, got {even}")

    def _require_steps(self, side: str) -> None:
        """Shortcuts and squares can make the channels that the next maps have."""
        widths = getattr(self, f"{side}_block_out_channels")
        first = 0 if getattr(self, f"{side}_layers_per_block")[0] else 1
        for larger, smaller in zip(widths[first:], widths[first + 1 :], strict=False):
            if _SQUARE * larger % smaller:
                raise ValueError(
                    f"{side}_block_out_channels: {_SQUARE} times the channels of a stage must be a "
                    f"multiple of those of the next, or the shortcut between them is not defined; "
                    f"got {larger} and {smaller}"
                )
        if side == "encoder" and self.downsample_block_type == UNSHUFFLE:
            indivisible = [width for width in widths[1:] if width % _SQUARE]
            if indivisible:
                raise ValueError(
                    f"encoder_block_out_channels must be multiples of {_SQUARE} after the first "
                    f"for downsample_block_type {UNSHUFFLE!r}, got {indivisible}"
                )
        name = {"encoder": "encoder_out_shortcut", "decoder": "decoder_in_shortcut"}[side]
        if getattr(self, name) and widths[-1] % self.latent_channels:
            raise ValueError(
                f"latent_channels must divide the last of {side}_block_out_channels with {name}, "
                f"got {self.latent_channels} and {widths[-1]}"
            )

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "DCConfig":
        """Reads the contents of a `config.json`.

        Raises:
            ValueError: It is of another class, has unknown entries, or options that do not fit.
        """
        values = entries_of(content, CLASS_NAME, dataclasses.fields(cls))
        for field in dataclasses.fields(cls):
            _require_type(field.name, values.get(field.name, field.default), field.default)
        if "scaling_factor" in values:
            values["scaling_factor"] = float(values["scaling_factor"])
        return cls(**{name: _tuples(value) for name, value in values.items()})

    def write(self) -> dict[str, Any]:
        """Contents of a `config.json` that `read` and diffusers read."""
        return {"_class_name": CLASS_NAME, **dataclasses.asdict(self)}

    @property
    def compression(self) -> int:
        """Pixels per latent, on each side."""
        return FACTOR ** (len(self.encoder_block_out_channels) - 1)

    @property
    def encoder_stages(self) -> tuple[Stage, ...]:
        """From full size down."""
        return self._stages("encoder")

    @property
    def decoder_stages(self) -> tuple[Stage, ...]:
        """From full size down: the decoder begins with the last."""
        return self._stages("decoder")

    def _stages(self, side: str) -> tuple[Stage, ...]:
        count = len(self.encoder_block_out_channels)

        def per_stage(name: str, default: str = "") -> tuple[Any, ...]:
            value = getattr(self, f"{side}_{name}", default)
            return (value,) * count if isinstance(value, str) else value

        columns = zip(
            per_stage("block_types"),
            per_stage("block_out_channels"),
            per_stage("layers_per_block"),
            per_stage("qkv_multiscales"),
            # The encoder has no such options.
            per_stage("norm_types", "rms_norm"),
            per_stage("act_fns", "silu"),
            strict=True,
        )
        return tuple(
            Stage(block, channels, depth, sizes, norm, _lower(activation))
            for block, channels, depth, sizes, norm, activation in columns
        )


_ACTIVATION_NAMES = tuple(name for name in ACTIVATIONS if name is not None)


def _lower(name: str | None) -> str | None:
    return name if name is None else name.lower()


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _require_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        listed = ", ".join("null" if choice is None else repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")


def _require_type(name: str, value: Any, default: Any) -> None:
    """A value of a file is of the kind of its default."""
    if isinstance(default, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, wanted = type(value) is int and value > 0, "a whole number above 0"
    elif isinstance(default, float):
        fits, wanted = type(value) in (int, float), "a number"
    elif isinstance(default, str):
        per_stage = name.endswith(("_types", "_fns"))
        fits = isinstance(value, str) or (per_stage and isinstance(value, list | tuple))
        wanted = "a name" + (" or a list of them" if per_stage else "")
    elif name.endswith("_multiscales"):
        fits = isinstance(value, list | tuple) and all(map(_is_whole_numbers, value))
        wanted = "lists of whole numbers, one per stage"
    else:
        fits, wanted = _is_whole_numbers(value), "a list of whole numbers, one per stage"
    if not fits:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def _is_whole_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(type(number) is int for number in value)


def _imagenet(latent_channels: int, further_stages: int, scaling_factor: float) -> DCConfig:
    """The sizes that "in" and "mix" share: trained on ImageNet, and on a mixture of data."""
    transformers = 3 + further_stages
    widths = (128, 256, 512, 512, 1024, 1024, 2048, 2048)[: 3 + transformers]
    types = (RESIDUAL,) * 3 + (EFFICIENT_VIT,) * transformers
    return DCConfig(
        latent_channels=latent_channels,
        encoder_block_types=types,
        decoder_block_types=types,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(0, 4, 8, *(2,) * transformers),
        decoder_layers_per_block=(0, 5, 10, *(2,) * transformers),
        encoder_qkv_multiscales=((),) * len(widths),
        decoder_qkv_multiscales=((),) * len(widths),
        decoder_norm_types=("batch_norm",) * 3 + ("rms_norm",) * transformers,
        decoder_act_fns=("relu",) * 3 + ("silu",) * transformers,
        scaling_factor=scaling_factor,
    )


_SANA_TYPES = (RESIDUAL,) * 3 + (EFFICIENT_VIT,) * 3

RELEASED: Mapping[str, DCConfig] = {
    "dc-ae-f32c32-sana-1.0": DCConfig(
        encoder_block_types=_SANA_TYPES,
        decoder_block_types=_SANA_TYPES,
        upsample_block_type=INTERPOLATE,
        downsample_block_type="conv",
        scaling_factor=0.41407,
    ),
    "dc-ae-f32c32-in-1.0": _imagenet(32, 0, 0.3189),
    "dc-ae-f32c32-mix-1.0": _imagenet(32, 0, 0.4552),
    "dc-ae-f64c128-in-1.0": _imagenet(128, 1, 0.2889),
    "dc-ae-f64c128-mix-1.0": _imagenet(128, 1, 0.4538),
    "dc-ae-f128c512-in-1.0": _imagenet(512, 2, 0.4883),
    "dc-ae-f128c512-mix-1.0": _imagenet(512, 2, 0.362),
}
"""Options of the published autoencoders, by the name of their release.

The files of "in" and "mix" have the same entries, and latents of different size.
"""
