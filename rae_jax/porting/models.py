"""The models that work folders hold: which sizes a file tells, and which a config must."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax import build
from rae_jax.configuration import defaults
from rae_jax.configuration.errors import ConfigError
from rae_jax.configuration.schema import (
    DiTDHConfig,
    LightningDiTConfig,
    Stage1Config,
    Stage2Config,
    parse,
)
from rae_jax.configuration.section import nearest
from rae_jax.models.decoders.vit_decoder import DecoderConfig, ViTDecoder
from rae_jax.typing import Tree
from rae_jax.weights.convert import WeightError
from rae_jax.weights.readers import header

DENOISERS = {"dit_dh": DiTDHConfig, "lightning_dit": LightningDiTConfig}
STAGES = {"decoder": build.STAGE1, **dict.fromkeys(DENOISERS, build.STAGE2)}
"""Stage of the runs that train each kind of model."""

PRESETS: Mapping[str, Any] = {**defaults.DECODERS, **defaults.DENOISERS}
"""Sizes that `--model` names."""

_CHANNELS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """One model of a work folder.

    Attributes:
        kind: Name in the registry.
        config: Settings of the run that it stands for.
        make: Builds it with fresh parameters.
        latent_shape: (h, w, C) of the latents that it takes.
    """

    kind: str
    config: Stage1Config | Stage2Config
    make: Callable[[], nnx.Module]
    latent_shape: tuple[int, int, int]

    def entry(self, tree: Tree) -> Tree:
        """A tree of its arrays as the checkpoints of a run hold it."""
        return {"decoder": tree} if self.kind == "decoder" else tree

    def arrays(self, entry: Tree) -> Tree:
        """Inverse of `entry`."""
        return entry["decoder"] if self.kind == "decoder" else entry


def of_kind(
    kind: str, config: Stage1Config | Stage2Config, latent_shape: tuple[int, int, int]
) -> Model:
    """The model that a config describes, for latents of this shape."""
    if isinstance(config, Stage1Config):
        sizes = DecoderConfig(
            **dataclasses.asdict(config.autoencoder.decoder),
            latent_channels=latent_shape[2],
            grid=latent_shape[:2],
        )

        def decoder() -> ViTDecoder:
            return ViTDecoder(sizes, dtype=jnp.float32, rngs=nnx.Rngs(0))

        return Model(kind, config, decoder, latent_shape)

    def denoiser() -> nnx.Module:
        return build.denoiser(
            config.denoiser,
            latent_shape,
            build.Compute(),
            has_null_label=config.label_dropout > 0,
            rngs=nnx.Rngs(0),
        )

    return Model(kind, config, denoiser, latent_shape)


def preset(kind: str, name: str) -> Any:
    """The section of sizes called `name`.

    Raises:
        ConfigError: There is none for this kind.
    """
    fitting = [
        known for known, section in PRESETS.items() if (getattr(section, "kind", "decoder")) == kind
    ]
    if name not in fitting:
        raise ConfigError(f"--model={name} is no published {kind}: {nearest(name, fitting)}")
    return PRESETS[name]


def configured(kind: str, values: Any) -> Any:
    """The settings of a config file, which must be one for training this kind of model.

    Raises:
        ConfigError: It is one for something else.
    """
    stage1 = STAGES[kind] == build.STAGE1
    config = parse(Stage1Config if stage1 else Stage2Config, values)
    if isinstance(config, Stage2Config) and config.denoiser.kind != kind:
        raise ConfigError(
            f"--config is of a denoiser of kind {config.denoiser.kind!r}, but --kind={kind}"
        )
    return config


class FileSizes:
    """What the shapes in a published file of one kind tell."""

    def __init__(self, kind: str, tensors: Mapping[str, np.ndarray]):
        self.kind, self._tensors = kind, tensors

    def _shape(self, key: str, axes: int) -> tuple[int, ...]:
        if key not in self._tensors:
            listed = ", ".join(list(self._tensors)[:4])
            raise WeightError(
                f"a file of kind {self.kind!r} has an entry {key}; this one has {listed}, ..."
            )
        shape = header(self._tensors, key).shape
        if len(shape) != axes or 0 in shape:
            raise WeightError(f"entry {key} must have {axes} axes, got shape {shape}")
        return shape

    def channels(self) -> int:
        """Width of the latents."""
        if self.kind == "decoder":
            return self._shape("decoder_embed.weight", 2)[1]
        return self._shape("x_embedder.proj.weight", 4)[1]

    def patch_size(self) -> int:
        """Side of a patch: of pixels that come out, or of latents that go in."""
        if self.kind == "decoder":
            return math.isqrt(self._shape("decoder_pred.weight", 2)[0] // _CHANNELS)
        return self._shape("x_embedder.proj.weight", 4)[2]

    def label_rows(self) -> int:
        """Rows of the label table."""
        return self._shape("y_embedder.embedding_table.weight", 2)[0]

    def has_sigma(self) -> bool:
        """Whether a LightningDiT predicts twice the channels."""
        rows = self._shape("final_layer.linear.weight", 2)[0]
        return rows == 2 * self.patch_size() ** 2 * self.channels()

    def grid(self) -> int | None:
        """Rows, and columns, of the latents; None if the file does not tell.

        Raises:
            WeightError: The latents are not square.
        """
        for key in self._tensors:
            shape = header(self._tensors, key).shape
            if key == "decoder_pos_embed" and len(shape) == 3:
                return self._side(key, shape[1] - 1)
            if key == "pos_embed" and len(shape) == 3:
                return self._side(key, shape[1]) * self.patch_size()
            if re.fullmatch(r"(enc_)?feat_rope\.freqs_cos", key) and len(shape) == 2:
                return self._side(key, shape[0]) * self.patch_size()
        return None

    def _side(self, key: str, count: int) -> int:
        side = math.isqrt(max(count, 0))
        if side == 0 or side**2 != count:
            raise WeightError(f"entry {key} is of {count} places, which are no square")
        return side
