"""Sections of jobs over the latents of a data set; see `schema`."""

import dataclasses
from typing import Literal

from rae_jax.configuration.errors import ConfigError
from rae_jax.configuration.evaluation import require_no_chance
from rae_jax.configuration.parts import CACHED_LATENTS, AutoencoderConfig, DataConfig
from rae_jax.configuration.section import Section


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatisticsConfig(Section):
    """Mean and variance of the latents of a set of images.

    Attributes:
        autoencoder: Its encoder gives the features.
        data: The images, every one once.
        batch_size: Images at a time on each device, whose moments are taken in float32; all else
            is float64. Only rounding depends on it, unless there is a momentum.
        dtype: Of the encoder's computation.
        momentum: 0 for exact statistics. Above, the rule of the RAE release, an average over the
            last batches, each with this weight (there 0.1).
        momentum_ranks: With momentum, how many averages are taken, each over every so many-th
            batch, and joined in the end: as many as the original had GPUs.
        save_seconds: How often what is done is saved. A job that is killed loses no more.
        reference: File of statistics, npz or `stat.pt` of the RAE release, to compare with; "" for
            none.
    """

    positive = ("batch_size", "momentum_ranks")
    fractions = ("momentum",)
    not_negative = ("save_seconds",)

    autoencoder: AutoencoderConfig = AutoencoderConfig()
    data: DataConfig = DataConfig(crop="center")
    batch_size: int = 256
    dtype: Literal["float32", "bfloat16"] = "float32"
    momentum: float = 0.0
    momentum_ranks: int = 1
    save_seconds: float = 60.0
    reference: str = ""

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        self.autoencoder.require_untrained()
        require_no_chance(self.data, "statistics are of every image once")
        if not self.momentum:
            self.require_defaults(("momentum_ranks",), "without momentum; set momentum=0.1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentCacheConfig(Section):
    """Latents of a set of images on disk, for stage 2.

    Attributes:
        autoencoder: That of stage 2; its decoder is not read.
        data: The images, every one once. With `horizontal_flip` the latents of the mirror images
            are stored too.
        batch_size: Images at a time on each device; only rounding depends on it.
        dtype: Of the autoencoder's computation.
        stored_dtype: Of the latents on disk.
        images_per_shard: Images in every file but the last. A job that is killed does so many
            again, in each process.
    """

    positive = ("batch_size", "images_per_shard")

    autoencoder: AutoencoderConfig = AutoencoderConfig()
    data: DataConfig = DataConfig(crop="center", horizontal_flip=True)
    batch_size: int = 32
    dtype: Literal["float32", "bfloat16"] = "float32"
    stored_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    images_per_shard: int = 1024

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        data = self.data
        if data.source == CACHED_LATENTS or data.crop == "random" or data.max_unreadable:
            raise ConfigError(
                "data must be a source of images with crop 'center' or 'none' and max_unreadable "
                f"0, because latents are of every image once, got {data.source!r}, "
                f"{data.crop!r} and {data.max_unreadable}"
            )
