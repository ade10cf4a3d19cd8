"""What transport and samplers need of a denoiser."""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from flax import struct

from rae_jax.layers.attention import Rotary
from rae_jax.ops.rope import rotary_table
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


def token_grid(latent_shape: tuple[int, int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of tokens.

    Raises:
        ValueError: The patch size does not divide the latents.
    """
    height, width, _ = latent_shape
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"patch_size must divide the latents' {height}x{width} grid, got {patch_size}"
        )
    return height // patch_size, width // patch_size


def require_heads(name: str, hidden_size: int, num_heads: int, use_rope: bool) -> None:
    """Raises ValueError unless the heads divide the width into whole rotary pairs of pairs."""
    unit = 4 * num_heads if use_rope else num_heads
    if hidden_size % unit:
        raise ValueError(
            f"{name} must be a multiple of {unit} for {num_heads} heads "
            f"{'with' if use_rope else 'without'} rotary positions, got {hidden_size}"
        )


def require_latents(
    noisy_latents: Float[Array, "B h w C"], latent_shape: tuple[int, int, int]
) -> None:
    """Raises ValueError unless the latents have the denoiser's shape."""
    if noisy_latents.shape[1:] != latent_shape:
        raise ValueError(
            f"the denoiser takes latents of shape {latent_shape}, got {noisy_latents.shape[1:]}"
        )


def require_null_label(has_null_label: bool) -> None:
    """Raises ValueError unless there is a null label."""
    if not has_null_label:
        raise ValueError(
            "this denoiser was trained without label dropout and has no null label; sample it "
            "without classifier-free guidance"
        )


def rotary_of(grid: tuple[int, int], head_dim: int) -> Rotary:
    """Cosines and sines of the angles of all tokens of a grid."""
    cosines, sines = rotary_table(*grid, head_dim)
    return jnp.asarray(cosines), jnp.asarray(sines)
