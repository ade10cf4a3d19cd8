"""Sections of the losses of stage 1; see `schema`."""

import dataclasses
from typing import Literal

from rae_jax.configuration.parts import OptimizerConfig, ScheduleConfig
from rae_jax.configuration.section import Section

RANDOM_FEATURES = "builtin:random_features"
"""In place of a file: a small network with random weights, to try a training on a small machine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """Weights of the losses that compare images and features directly.

    Attributes:
        l1: Of the mean absolute difference of the images.
        features: Of the mean squared difference of the encoder's features of reconstructions and
            images; 0, as in the published recipe, leaves it out.
    """

    positive = ("l1",)
    not_negative = ("features",)

    l1: float = 1.0
    features: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LPIPSConfig(Section):
    """The perceptual loss LPIPS (Zhang 2018, arXiv:1801.03924).

    Attributes:
        weight: Of the loss; 0 leaves it out, and no file is read.
        path: Folder with the published files, `vgg16-397923af.pth` and `vgg.pth`; or
            "builtin:random_features".
        start: Duration after which the loss is on.
    """

    not_negative = ("weight",)

    weight: float = 1.0
    path: str = "weights/lpips"
    start: str = "0 epochs"

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        self.amount("start")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(Section):
    """Discriminator on the features of a frozen DINO (Sauer 2023, arXiv:2301.09515).

    Attributes:
        path: File of the DINO, such as `dino_vit_small_patch8_224.pth`, whose entries tell its
            sizes; or "builtin:random_features".
        key_depths: Blocks that have a head, counted from 0, besides the last block.
        kernel_size: Of the heads' convolution among tokens; odd.
        norm: Of the heads: "batch", each image by itself; "group", groups of channels.
        spectral: Whether kernels of the heads are spectrally normed.
        norm_eps: Epsilon of the heads' norms.
    """

    positive = ("norm_eps",)

    path: str = "weights/dino_vit_small_patch8_224.pth"
    key_depths: tuple[int, ...] = (2, 5, 8, 11)
    kernel_size: int = 9
    norm: Literal["batch", "group"] = "batch"
    spectral: bool = True
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        odd = self.kernel_size > 0 and self.kernel_size % 2 == 1
        self.require("kernel_size", odd, "be odd")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GANConfig(Section):
    """The adversarial loss and its discriminator.

    Attributes:
        weight: Of the loss, besides the adaptive weight; 0 leaves it out, and no file is read.
        start: Duration after which the decoder learns from it.
        discriminator_start: Duration after which the discriminator learns.
        loss: Of the discriminator.
        largest_adaptive_weight: Upper bound of the adaptive weight.
        augment_probability: Of translation, colour and cutout each, for a whole batch.
        augment_cutout: Sides of the rectangle that is blanked, as a share of the image's.
        discriminator: What it consists of.
        optimizer: Step sizes of the discriminator.
        schedule: Learning rate of the discriminator over time.
        schedule_by: What the time of `schedule` is: "step": steps of the run, as of the decoder's
            schedule. "updates": the discriminator's own steps, as in the RAE release.
    """

    not_negative = ("weight",)
    positive = ("largest_adaptive_weight",)

    weight: float = 0.75
    start: str = "8 epochs"
    discriminator_start: str = "6 epochs"
    loss: Literal["hinge", "vanilla"] = "hinge"
    largest_adaptive_weight: float = 1e4
    augment_probability: float = 1.0
    augment_cutout: float = 0.0
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    schedule_by: Literal["step", "updates"] = "step"

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        for name in ("start", "discriminator_start"):
            self.amount(name)
        for name in ("augment_probability", "augment_cutout"):
            self.require(name, 0 <= getattr(self, name) <= 1, "be at least 0 and at most 1")
