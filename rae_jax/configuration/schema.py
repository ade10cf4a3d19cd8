"""What may be configured: one frozen dataclass per section; every field has a default.

Durations are text, "16 epochs", "2000 steps" or "512000 images" (`resolve.steps`). Values are
checked when an instance is made; messages begin with the name of the field.
"""

import dataclasses
from typing import Literal

from rae_jax.configuration.denoising import (
    DenoiserConfig,
    DiTDHConfig,
    GuidanceConfig,
    LightningDiTConfig,
    SamplerConfig,
    TransportConfig,
)
from rae_jax.configuration.errors import ConfigError
from rae_jax.configuration.evaluation import (
    GENERATION_METRICS,
    PAIR_METRICS,
    ExtractorConfig,
    ImagesConfig,
    OnlineEvaluationConfig,
    PackingConfig,
    ReferenceStatisticsConfig,
    Stage1EvaluationConfig,
    Stage2EvaluationConfig,
    require_some,
)
from rae_jax.configuration.labels import parse_labels
from rae_jax.configuration.latents import LatentCacheConfig, StatisticsConfig
from rae_jax.configuration.parts import (
    CACHED_LATENTS,
    AutoencoderConfig,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    LoopConfig,
    MeshConfig,
    OptimizerConfig,
    ScheduleConfig,
    TransformerConfig,
)
from rae_jax.configuration.reconstruction import (
    DiscriminatorConfig,
    GANConfig,
    LossConfig,
    LPIPSConfig,
)
from rae_jax.configuration.section import Section, as_dict, parse

__all__ = [
    "CACHED_LATENTS",
    "AutoencoderConfig",
    "ConfigError",
    "DataConfig",
    "DecoderConfig",
    "DemoConfig",
    "DenoiserConfig",
    "DiTDHConfig",
    "DiscriminatorConfig",
    "EncoderConfig",
    "ExtractorConfig",
    "GANConfig",
    "GenerationEvaluationConfig",
    "GuidanceConfig",
    "ImagesConfig",
    "LPIPSConfig",
    "LatentCacheConfig",
    "LightningDiTConfig",
    "LoopConfig",
    "LossConfig",
    "MeshConfig",
    "OnlineEvaluationConfig",
    "OptimizerConfig",
    "PackingConfig",
    "PretrainingConfig",
    "ReconstructionConfig",
    "ReconstructionEvaluationConfig",
    "ReferenceStatisticsConfig",
    "SamplerConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "Stage1Config",
    "Stage1EvaluationConfig",
    "Stage2Config",
    "Stage2EvaluationConfig",
    "StatisticsConfig",
    "TransformerConfig",
    "TransportConfig",
    "as_dict",
    "parse",
]

DType = Literal["float32", "bfloat16"]
Remat = Literal["none", "full", "dots"]
Weights = Literal["ema", "raw"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seeded(Section):
    """Base of configurations of runs that draw random numbers.

    Attributes:
        seed: Origin of every random number of the run.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        # The generators of the input stream take 32 bits.
        self.require("seed", 0 <= self.seed < 2**32, "be at least 0 and below 2^32")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage1Config(Seeded):
    """Training of the decoder on a frozen encoder.

    Attributes:
        autoencoder: Its encoder is frozen, its decoder trained.
        data: Training images.
        global_batch_size: Images per step over all processes.
        duration: How long to train.
        optimizer: Step sizes.
        schedule: Learning rate over time.
        ema_decay: Of the averaged weights, per step.
        gradient_accumulation: Parts that a batch is worked off in, one after the other, to save
            memory; gradients are those of the whole batch.
        init_from: What the decoder's weights come from in the first step: the work folder of a
            stage-1 run or of a converted decoder, an autoencoder that diffusers wrote (folder or
            hub repository), or a decoder's file of the RAE release; "" draws new ones.
        loss: Weights of the losses that compare images and features directly.
        lpips: The perceptual loss.
        gan: The adversarial loss and its discriminator.
        loop: Logging, checkpoints, previews.
        evaluation: Scores of held-out images in training.
        mesh: Layout of devices.
        dtype: Of computation; parameters are float32.
        unroll: Layers per iteration of the loop over layers.
        remat: What the backward pass recomputes.
    """

    positive = ("global_batch_size", "gradient_accumulation", "unroll")
    fractions = ("ema_decay",)
    durations = ("duration",)

    autoencoder: AutoencoderConfig = AutoencoderConfig()
    data: DataConfig = DataConfig()
    global_batch_size: int = 512
    duration: str = "16 epochs"
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema_decay: float = 0.9978
    gradient_accumulation: int = 1
    init_from: str = ""
    loss: LossConfig = LossConfig()
    lpips: LPIPSConfig = LPIPSConfig()
    gan: GANConfig = GANConfig()
    loop: LoopConfig = LoopConfig()
    evaluation: Stage1EvaluationConfig = Stage1EvaluationConfig()
    mesh: MeshConfig = MeshConfig()
    dtype: DType = "float32"
    unroll: int = 1
    remat: Remat = "none"

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        self.autoencoder.require_untrained()
        self.require_multiple("global_batch_size", "gradient_accumulation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage2Config(Seeded):
    """Training of the denoiser on latents; fields as in `Stage1Config`.

    Attributes:
        label_dropout: Share of labels replaced by the null label.
        init_from: What the denoiser's weights come from in the first step: the work folder of a
            stage-2 run or of a converted denoiser, or a file of the RAE release; "" draws new ones.
        preview_guidance: Of a second picture of the same noise and labels; "none" draws the
            unguided one alone. A weaker denoiser is not at hand here.
        evaluation: Scores of samples in training.
    """

    positive = ("global_batch_size", "gradient_accumulation", "unroll")
    fractions = ("ema_decay", "label_dropout")
    durations = ("duration",)

    autoencoder: AutoencoderConfig = AutoencoderConfig()
    data: DataConfig = DataConfig(crop="center", horizontal_flip=True)
    denoiser: DenoiserConfig = DiTDHConfig()
    transport: TransportConfig = TransportConfig()
    label_dropout: float = 0.1
    global_batch_size: int = 1024
    duration: str = "1400 epochs"
    optimizer: OptimizerConfig = OptimizerConfig(clip_norm=1.0)
    schedule: ScheduleConfig = ScheduleConfig(
        kind="linear", warmup="40 epochs", end="800 epochs", warmup_from_zero=False
    )
    ema_decay: float = 0.9995
    gradient_accumulation: int = 1
    init_from: str = ""
    loop: LoopConfig = LoopConfig()
    preview_guidance: GuidanceConfig = GuidanceConfig()
    evaluation: Stage2EvaluationConfig = Stage2EvaluationConfig()
    mesh: MeshConfig = MeshConfig()
    dtype: DType = "float32"
    unroll: int = 1
    remat: Remat = "none"

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        self.require_multiple("global_batch_size", "gradient_accumulation")
        for name, guidance in (
            ("preview_guidance", self.preview_guidance),
            ("evaluation.guidance", self.evaluation.guidance),
        ):
            method = guidance.method
            if method == "autoguidance" or (method == "classifier_free" and not self.label_dropout):
                raise ConfigError(
                    f"{name}.method must be 'none' or, with a label_dropout above 0, "
                    f"'classifier_free', got {method!r}"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingConfig(Seeded):
    """Training of a small MAE encoder by masked reconstruction; fields as in `Stage1Config`.

    Attributes:
        encoder: Sizes of the encoder; its image size is that of the data.
        decoder: Sizes of the pixel decoder, which is thrown away afterwards.
        patch_size: Side of the encoder's patches.
        mask_ratio: Share of patches that are hidden.
        image_mean: Mean of the pixels per channel, noted beside the encoder.
        image_std: Deviation of the pixels per channel, noted beside the encoder.
    """

    positive = ("global_batch_size", "unroll", "patch_size", "mask_ratio")
    fractions = ("ema_decay", "mask_ratio")
    durations = ("duration",)

    encoder: TransformerConfig = TransformerConfig()
    decoder: TransformerConfig = TransformerConfig(hidden_size=512, depth=8, num_heads=16)
    patch_size: int = 16
    mask_ratio: float = 0.75
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    data: DataConfig = DataConfig()
    global_batch_size: int = 4096
    duration: str = "800 epochs"
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2.4e-3, weight_decay=0.05)
    schedule: ScheduleConfig = ScheduleConfig(
        warmup="40 epochs", end="800 epochs", final_learning_rate=0.0
    )
    ema_decay: float = 0.999
    loop: LoopConfig = LoopConfig()
    mesh: MeshConfig = MeshConfig()
    dtype: DType = "float32"
    unroll: int = 1
    remat: Remat = "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig(Seeded):
    """New images from a stage-2 run; the n-th one is a function of the seed and n.

    Attributes:
        checkpoint: Work folder of the stage-2 run.
        weights: Averaged or last weights.
        num_images: How many.
        labels: "equal" (the same number of each class), "random", or labels and ranges such as
            "3,1,4" or "0-9,15", in turn; see `sampling.labels.class_labels`.
        batch_size: Images at a time over all devices; does not change them.
        sampler: Integration.
        guidance: Guidance.
        mesh: Layout of devices.
        save_png: Write one PNG per image besides the npz.
    """

    positive = ("num_images", "batch_size")

    checkpoint: str = ""
    weights: Weights = "ema"
    num_images: int = 50000
    labels: str = "equal"
    batch_size: int = 256
    sampler: SamplerConfig = SamplerConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    mesh: MeshConfig = MeshConfig()
    save_png: bool = True

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        if self.labels not in ("equal", "random"):
            try:
                parse_labels(self.labels)
            except ConfigError as error:
                raise ConfigError(f"labels {error}") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoConfig(Seeded):
    """The whole pipeline; `seed` and the paths between the stages replace those of the sections.

    Attributes:
        stage1: Training of the decoder.
        statistics: Statistics of the latents.
        stage2: Training of the denoiser.
        sampling: Samples that are scored and drawn.
        guided: The same with guidance.
    """

    stage1: Stage1Config = Stage1Config()
    statistics: StatisticsConfig = StatisticsConfig()
    stage2: Stage2Config = Stage2Config()
    sampling: SamplingConfig = SamplingConfig()
    guided: SamplingConfig = SamplingConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructionConfig(Section):
    """Images through an autoencoder and back.

    Attributes:
        checkpoint: Work folder of a stage-1 run, or an autoencoder that diffusers wrote (folder or
            hub repository).
        input: An image, or a folder of images.
        weights: Averaged or last weights of the run.
        crop: How an image becomes square: the middle, or squashed whole.
        image_size: Side of the squares; 0 for that of a RAE, which gives images of one size.
        batch_size: Images at a time.
    """

    positive = ("batch_size",)
    not_negative = ("image_size",)

    checkpoint: str = ""
    input: str = ""
    weights: Weights = "ema"
    crop: Literal["center", "squash"] = "center"
    image_size: int = 0
    batch_size: int = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationEvaluationConfig(Section):
    """Scores of generated images.

    Attributes:
        samples: The generated images.
        sampling: If its `checkpoint` is set, samples of that run are made and scored, in place of
            `samples`.
        reference: Real images: as `samples`, or an npz of statistics, ours or the ADM suite's.
        extractor: Network whose features are compared.
        metrics: Scores to compute: some of "fid", "sfid", "inception_score", "precision_recall"
            and "kid". With another network than Inception they have other names in the result.
        kid_subsets: Random subsets that KID is the mean of.
        kid_subset_size: Images in each.
        pictured: Samples shown beside their nearest real images; 0 for no picture.
    """

    positive = ("kid_subsets",)
    not_negative = ("pictured",)

    samples: ImagesConfig = ImagesConfig()
    sampling: SamplingConfig = SamplingConfig()
    reference: ImagesConfig = ImagesConfig()
    extractor: ExtractorConfig = ExtractorConfig()
    metrics: tuple[str, ...] = GENERATION_METRICS
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    pictured: int = 8

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        require_some(self, "metrics", GENERATION_METRICS)
        self.require("kid_subset_size", self.kid_subset_size >= 2, "be at least 2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructionEvaluationConfig(Section):
    """Scores of reconstructions.

    Attributes:
        originals: The images that were, or are to be, reconstructed.
        reconstructions: Path of their reconstructions in the same order, as of `originals`. It
            goes before `checkpoint`; "" makes them with the autoencoder there.
        checkpoint: Work folder of a stage-1 run, or an autoencoder that diffusers wrote.
        weights: Which weights of a run, averaged or last.
        reference: Statistics (npz) of the originals for rFID; "" takes the originals themselves.
        extractor: Network of rFID.
        metrics: Scores to compute: some of "psnr", "ssim", "lpips" and "rfid".
        lpips: Folder with the files of LPIPS, `vgg16-397923af.pth` and `vgg.pth`.
        pictured: Originals shown over their reconstructions; 0 for no picture.
    """

    not_negative = ("pictured",)

    originals: ImagesConfig = ImagesConfig()
    reconstructions: str = ""
    checkpoint: str = ""
    weights: Weights = "ema"
    reference: str = ""
    extractor: ExtractorConfig = ExtractorConfig()
    metrics: tuple[str, ...] = ("psnr", "ssim", "rfid")
    lpips: str = ""
    pictured: int = 12

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        require_some(self, "metrics", PAIR_METRICS)
