"""Sections of evaluation; see `schema`."""

import dataclasses
from typing import Literal

from rae_jax.configuration.denoising import GuidanceConfig, SamplerConfig
from rae_jax.configuration.errors import ConfigError
from rae_jax.configuration.parts import DataConfig, EncoderConfig
from rae_jax.configuration.section import Section


def require_some(section: Section, name: str, legal: tuple[str, ...]) -> None:
    """Raises ConfigError unless field `name` holds some of `legal`, and nothing else."""
    values = getattr(section, name)
    section.require(name, bool(values) and set(values) <= set(legal), f"be some of {legal}")


def require_no_chance(data: DataConfig, because: str) -> None:
    """Raises ConfigError if images are cropped or mirrored at random."""
    if data.crop == "random" or data.horizontal_flip:
        raise ConfigError(
            "data.crop must be 'center' or 'none' and data.horizontal_flip False, because "
            f"{because}, got {data.crop!r} and {data.horizontal_flip}"
        )


GENERATION_METRICS = ("fid", "sfid", "inception_score", "precision_recall", "kid")
"""What generated images can be scored by."""

PAIR_METRICS = ("psnr", "ssim", "lpips", "rfid")
"""What reconstructions can be scored by."""

_NO_ENCODER = EncoderConfig(path="", input_size=224)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractorConfig(Section):
    """Network whose features are compared.

    Attributes:
        kind: "inception": the network of FID. "encoder": the mean token of a frozen encoder,
            whose scores are never called FID.
        weights: File of the published weights of Inception.
        layer: Width of the features of Inception; those of FID are 2048.
        encoder: The encoder, for kind "encoder".
        rows: Images at a time per device; does not change scores.
    """

    positive = ("rows",)

    kind: Literal["inception", "encoder"] = "inception"
    weights: str = ""
    layer: Literal[64, 192, 768, 2048] = 2048
    encoder: EncoderConfig = _NO_ENCODER
    rows: int = 32

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        if self.kind == "inception":
            self.require_defaults(("encoder",), "for kind 'inception'; set kind='encoder'")
        else:
            self.require_defaults(("weights", "layer"), "for kind 'encoder'; set kind='inception'")
            named = bool(self.encoder.path)
            self.require("encoder", named, "name a path, such as 'builtin:digits_mae'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesConfig(Section):
    """A set of images, all of one size.

    Attributes:
        path: An npz with `arr_0` uint8 [N, H, W, 3], a folder of images, or a work folder of
            `tools/sample.py`. It goes before `data`; "" takes those.
        data: A data set with its crop, every image once and in order.
    """

    path: str = ""
    data: DataConfig = DataConfig(crop="center")

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        require_no_chance(self.data, "scores may not depend on chance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceStatisticsConfig(Section):
    """Statistics of a set of images, to score others against.

    Attributes:
        images: The set.
        extractor: Network whose features are taken.
        purpose: What the images are: "generation": those a generator learns from, for gFID.
            "reconstruction": the originals of reconstructions, for rFID.
        keep_features: Note the features themselves too, which precision, recall and KID need:
            8 kB per image.
    """

    images: ImagesConfig = ImagesConfig()
    extractor: ExtractorConfig = ExtractorConfig()
    purpose: Literal["generation", "reconstruction"] = "generation"
    keep_features: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackingConfig(Section):
    """A set of images as one npz in the layout of the ADM suite."""

    images: ImagesConfig = ImagesConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineEvaluationConfig(Section):
    """Scores of the model under training, by the functions that score finished images.

    Attributes:
        every: How often, such as "5 epochs"; "" for never.
        num_images: How many images are scored each time, always the same.
        batch_size: Of them at a time over all devices; does not change them.
        weights: Which weights: averaged, last or both.
        extractor: Network whose features are compared.
    """

    positive = ("num_images", "batch_size")

    every: str = ""
    num_images: int = 5000
    batch_size: int = 256
    weights: tuple[str, ...] = ("ema",)
    extractor: ExtractorConfig = ExtractorConfig()

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        if self.every:
            self.require("every", self.amount("every") > 0, "be above 0, or '' for never")
        require_some(self, "weights", ("ema", "raw"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage1EvaluationConfig(OnlineEvaluationConfig):
    """Scores of reconstructions in training.

    Attributes:
        images: Originals, of the size of the training images and best none of them; the
            `num_images` that are scored are spread evenly over the set.
        metrics: Scores to compute: some of "psnr", "ssim", "lpips" and "rfid".
        lpips: Folder with the files of LPIPS, `vgg16-397923af.pth` and `vgg.pth`.
    """

    images: ImagesConfig = ImagesConfig()
    metrics: tuple[str, ...] = ("psnr", "ssim", "rfid")
    lpips: str = ""

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        require_some(self, "metrics", PAIR_METRICS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage2EvaluationConfig(OnlineEvaluationConfig):
    """Scores of samples in training, with as many of each class and a fixed seed.

    Attributes:
        reference: Real images, or an npz of their statistics.
        metrics: As of `GenerationEvaluationConfig`.
        sampler: Integration.
        guidance: Guidance. A weaker denoiser is not at hand in training, so autoguidance is scored
            of samples of the finished run.
        kid_subsets: Random subsets that KID is the mean of.
        kid_subset_size: Images in each.
    """

    positive = (*OnlineEvaluationConfig.positive, "kid_subsets")

    reference: ImagesConfig = ImagesConfig()
    metrics: tuple[str, ...] = ("fid",)
    sampler: SamplerConfig = SamplerConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    kid_subsets: int = 100
    kid_subset_size: int = 1000

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        require_some(self, "metrics", GENERATION_METRICS)
        self.require("kid_subset_size", self.kid_subset_size >= 2, "be at least 2")
