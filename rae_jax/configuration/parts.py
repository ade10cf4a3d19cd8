"""Sections that configurations are made of; see `schema`."""

import dataclasses
from typing import Literal

from rae_jax.configuration.errors import ConfigError
from rae_jax.configuration.section import Section


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig(Section):
    """Frozen encoder whose features are the latents.

    Attributes:
        path: Local folder or hub name in the Hugging Face layout.
        input_size: Images are resized to this side before they are encoded.
    """

    positive = ("input_size",)

    path: str = "facebook/vit-mae-base"
    input_size: int = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(Section):
    """ViT decoder from latents to images."""

    positive = ("hidden_size", "depth", "num_heads", "intermediate_size", "patch_size")

    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    intermediate_size: int = 4096
    patch_size: int = 16

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        self.require_multiple("hidden_size", "num_heads")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(Section):
    """Images to latents and back.

    Attributes:
        encoder: The frozen encoder.
        decoder: The trained decoder.
        noise_tau: In stage 1 each image's features get noise of a standard deviation that is
            uniform in [0, noise_tau).
        checkpoint: Work folder of the stage-1 run whose EMA decoder is loaded; "" for none.
        statistics: File (npz) of latent statistics; "" leaves latents as they are.
        pretrained: Folder or hub repository of a whole autoencoder that diffusers wrote; then
            nothing else of the section is read, and must be as it is by default.
    """

    not_negative = ("noise_tau",)

    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    noise_tau: float = 0.8
    checkpoint: str = ""
    statistics: str = ""
    pretrained: str = ""

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        if self.pretrained:
            for field in dataclasses.fields(self):
                name, value = field.name, getattr(self, field.name)
                self.require(
                    name,
                    name == "pretrained" or value == field.default,
                    f"be {field.default!r} with 'pretrained', which holds it",
                )

    def require_untrained(self) -> None:
        """Raises ConfigError if the section names results of training, which would be ignored."""
        for name in ("checkpoint", "statistics", "pretrained"):
            if getattr(self, name):
                raise ConfigError(
                    f"autoencoder.{name} must be '' here, as this job does not read it, got "
                    f"{getattr(self, name)!r}"
                )


CACHED_LATENTS = "cached_latents"
"""The one `data.source` that holds no images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """Images and their preparation.

    Attributes:
        source: "image_folder": a folder of images, one sub-folder per class. "array_record": one
            that `tools/prepare_dataset.py` packed. "tfds": a prepared TensorFlow data set.
            "cached_latents": the work folder of `tools/cache_latents.py`, for stage 2 alone; all
            that describes the images must be as it was there. "digits": the handwritten digits
            that ship with scikit-learn.
        path: The folder; for "tfds" that of a version, or the data set's name.
        split: "train" or "test" of the digits; for folders the sub-folder of `path` that holds the
            classes or shards, "" for `path` itself; for "tfds" such as "train" or "train[:90%]".
        image_size: Side of the square images that come out.
        crop: "random": shorter side to `resize_size`, then a random square. "center": the largest
            square in the middle, resized. "none": images must already have `image_size`.
        resize_size: See `crop`; used by "random" only.
        horizontal_flip: Mirror every other image, at random.
        num_threads: Threads that read and prepare batches; 0 does it in the calling thread.
        num_workers: Processes that prepare batches, each with so many threads; 0 for none. They
            are worth it only where threads wait for Python, on machines of many cores.
        max_unreadable: So many images that cannot be read are passed over in training, each of
            them by the next one that can; one more ends the run.
    """

    positive = ("image_size", "resize_size")
    not_negative = ("num_threads", "num_workers", "max_unreadable")

    source: Literal["image_folder", "array_record", "tfds", "cached_latents", "digits"] = (
        "image_folder"
    )
    path: str = ""
    split: str = "train"
    image_size: int = 256
    crop: Literal["random", "center", "none"] = "random"
    resize_size: int = 384
    horizontal_flip: bool = False
    num_threads: int = 2
    num_workers: int = 0
    max_unreadable: int = 0

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        if self.crop == "random":
            smallest = f"be at least image_size, {self.image_size}, for crop 'random'"
            self.require("resize_size", self.resize_size >= self.image_size, smallest)
        if self.source == "digits":
            self.require("path", not self.path, "be '' for the digits; set source='image_folder'")
            self.require("split", self.split in ("train", "test"), "be 'train' or 'test'")
        if self.source == CACHED_LATENTS:
            must = "be 'center' or 'none', as it was for the cached latents"
            self.require("crop", self.crop != "random", must)
            self.require_defaults(("max_unreadable",), "for cached latents; make damaged ones anew")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    """AdamW; `clip_norm` 0 does not clip."""

    positive = ("learning_rate", "epsilon")
    not_negative = ("weight_decay", "clip_norm")
    fractions = ("beta1", "beta2")

    learning_rate: float = 2e-4
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Section):
    """Learning rate over time.

    Attributes:
        kind: Shape of the decay from the optimizer's learning rate to the final one.
        warmup: The decay begins after it.
        end: The decay ends then.
        final_learning_rate: Held from `end` on; "constant" does not use it.
        warmup_from_zero: Rise linearly from zero over `warmup`; otherwise the full learning rate
            is held over `warmup`.
    """

    not_negative = ("final_learning_rate",)
    durations = ("end",)

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: str = "1 epochs"
    end: str = "16 epochs"
    final_learning_rate: float = 2e-5
    warmup_from_zero: bool = True

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        self.amount("warmup")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig(Section):
    """What a training loop does every so often, and where metrics go.

    Attributes:
        log_every: Between two lines of metrics.
        checkpoint_every: Between two checkpoints.
        keep_checkpoints: How many of the latest stay.
        keep_every: Between two checkpoints that stay forever, such as "50 epochs"; "" for none.
            They are saved even where `checkpoint_every` saves none.
        preview_every: Between two pictures.
        writers: Where metrics go: some of "jsonl", "tensorboard" and "wandb".
        non_finite: What happens if a loss or gradient is NaN or infinite: "stop" ends the run and
            names the step; "skip" leaves all weights as they were, counts the step and goes on.
    """

    positive = ("keep_checkpoints",)
    durations = ("log_every", "checkpoint_every", "preview_every")

    log_every: str = "50 steps"
    checkpoint_every: str = "1 epochs"
    keep_checkpoints: int = 2
    keep_every: str = ""
    preview_every: str = "1 epochs"
    writers: tuple[str, ...] = ("jsonl", "tensorboard")
    non_finite: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        if self.keep_every:
            self.require("keep_every", self.amount("keep_every") > 0, "be above 0, or '' for none")
        legal = ("jsonl", "tensorboard", "wandb")
        self.require("writers", set(self.writers) <= set(legal), f"be some of {legal}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig(Section):
    """Devices along each mesh axis; -1 takes what the others leave.

    Attributes:
        data: Copies of the model, each of which takes a part of the batch.
        fsdp: Parts that parameters, their average, the optimiser's state and the batch are cut
            into; a layer's parameters are put together where it is computed.
        tensor: Parts that layers are cut into across their width.
        frozen: "cut": models that are not trained, such as the encoder, are cut as the others
            are, and put together in every step. "whole": every device has all of them.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    frozen: Literal["cut", "whole"] = "cut"

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        names = ("data", "fsdp", "tensor")
        for name in names:
            size = getattr(self, name)
            self.require(name, size > 0 or size == -1, "be above 0, or -1 for what is left")
        filled = [name for name in names if getattr(self, name) == -1]
        if len(filled) > 1:
            self.require(filled[1], False, f"be above 0, because {filled[0]} is already -1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig(Section):
    """Sizes of a plain vision transformer; its feed-forward layers are four times as wide."""

    positive = ("hidden_size", "depth", "num_heads")

    hidden_size: int = 768
    depth: int = 12
    num_heads: int = 12

    def __post_init__(self) -> None:
        """See base."""
        super().__post_init__()
        self.require_multiple("hidden_size", "num_heads")
