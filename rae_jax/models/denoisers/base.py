"""What transport and samplers need of a denoiser."""

from typing import Protocol, runtime_checkable

from flax import struct

from rae_jax.typing import Array, Float, Int


@struct.dataclass
class DenoiserOutput:
    """Answer of a denoiser.

    Attributes:
        prediction: What the transport trains it to predict, shaped like the latents, float32.
    """

    prediction: Array


@runtime_checkable
class Denoiser(Protocol):
    """(noisy latents, t, labels) -> prediction."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, C) of the latents."""
        ...

    @property
    def null_label(self) -> int:
        """Label that stands for none."""
        ...

    def __call__(
        self,
        noisy_latents: Float[Array, "B h w C"],
        t: Float[Array, " B"],
        labels: Int[Array, " B"],
    ) -> DenoiserOutput:
        """Predicts at times in [0, 1], 1 being noise."""
        ...
