"""What transport and samplers need of a denoiser."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import nnx, struct

from rae_jax.layers.adaln_block import BlockStyle
from rae_jax.layers.attention import Rotary
from rae_jax.layers.patch_embedding import PatchEmbedding
from rae_jax.layers.stack import scan_layers
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
    def null_label(self) -> int | None:
        """Label that stands for none; None if there is none."""
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


@dataclasses.dataclass(frozen=True)
class DenoiserSizes:
    """Sizes and choices of every denoiser here.

    Attributes:
        latent_shape: (h, w, C) of the latents.
        patch_size: Side of the square of latents that becomes one token.
        num_classes: Labels.
        has_null_label: Whether the label table has one more row, for no label. Published models
            trained without label dropout lack it, and cannot be guided by it.
        style: Choices that all blocks share.
        use_rope: Rotary positions on all tokens.
    """

    latent_shape: tuple[int, int, int]
    patch_size: int = 1
    num_classes: int = 1000
    has_null_label: bool = True
    style: BlockStyle = BlockStyle()
    use_rope: bool = True

    def __post_init__(self) -> None:
        """Rejects a patch size that does not divide the latents."""
        token_grid(self.latent_shape, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return token_grid(self.latent_shape, self.patch_size)

    def require_heads(self, name: str, hidden_size: int, num_heads: int) -> None:
        """Raises ValueError unless the heads divide the width, into pairs of pairs if rotary."""
        unit = 4 * num_heads if self.use_rope else num_heads
        if hidden_size % unit:
            raise ValueError(
                f"{name} must be a multiple of {unit} for {num_heads} heads "
                f"{'with' if self.use_rope else 'without'} rotary positions, got {hidden_size}"
            )


class TransformerDenoiser(nnx.Module):
    """Base of the denoisers: stacks of adaLN blocks on embedded latents, labels with a table."""

    config: Any
    unroll: int
    remat: str

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, C) of the latents."""
        return self.config.latent_shape

    @property
    def null_label(self) -> int | None:
        """Label that stands for none: the last row of the table; None if there is no such row."""
        return self.config.num_classes if self.config.has_null_label else None

    def _embed(
        self, noisy_latents: Float[Array, "B h w C"], embedding: PatchEmbedding
    ) -> Float[Array, "B N D"]:
        """Tokens, float32."""
        if noisy_latents.shape[1:] != self.latent_shape:
            raise ValueError(
                f"the denoiser takes latents of shape {self.latent_shape}, got "
                f"{noisy_latents.shape[1:]}"
            )
        return embedding(noisy_latents).astype(jnp.float32)

    def _scan(
        self,
        blocks: Any,
        num_heads: int,
        tokens: Float[Array, "B N D"],
        condition: Float[Array, "B M D"],
        *,
        keep_outputs: bool = False,
    ) -> Any:
        """The tokens after a stack of blocks, see `scan_layers`."""
        rotary = None
        if self.config.use_rope:
            rotary = rotary_of(self.config.grid, tokens.shape[-1] // num_heads)
        return scan_layers(
            lambda tokens, block: block(tokens, condition, rotary),
            blocks,
            tokens,
            unroll=self.unroll,
            remat=self.remat,
            keep_outputs=keep_outputs,
        )


def rotary_of(grid: tuple[int, int], head_dim: int) -> Rotary:
    """Cosines and sines of the angles of all tokens of a grid."""
    cosines, sines = rotary_table(*grid, head_dim)
    return jnp.asarray(cosines), jnp.asarray(sines)
