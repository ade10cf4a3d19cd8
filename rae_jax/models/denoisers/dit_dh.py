"""DiTDH: a diffusion transformer with a shallow and wide head (RAE, arXiv:2510.11690, section 5).

The split into a backbone that looks and a head that draws is that of DDT (arXiv:2504.05741);
upstream file stage2/models/DDT.py of bytetriper/RAE.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.adaln_block import AdaLNBlock, BlockStyle, zero_linear
from rae_jax.layers.attention import Rotary
from rae_jax.layers.condition_embeddings import GaussianFourierEmbedding, LabelEmbedding
from rae_jax.layers.functional import Buffer
from rae_jax.layers.linear import torch_linear
from rae_jax.layers.patch_embedding import PatchEmbedding
from rae_jax.layers.stack import scan_layers, stack_layers
from rae_jax.models.denoisers.base import DenoiserOutput
from rae_jax.ops.modulation import modulate
from rae_jax.ops.patches import unpatchify
from rae_jax.ops.positions import sincos_2d
from rae_jax.ops.rope import rotary_table
from rae_jax.typing import Array, DTypeLike, Float, Int


@dataclasses.dataclass(frozen=True)
class DiTDHConfig:
    """Sizes and choices of a DiTDH.

    Attributes:
        latent_shape: (h, w, C) of the latents.
        patch_size: Side of the square of latents that becomes one token.
        backbone_hidden_size: Width of the backbone.
        backbone_depth: Blocks of the backbone.
        backbone_num_heads: Attention heads of the backbone.
        head_hidden_size: Width of the head.
        head_depth: Blocks of the head.
        head_num_heads: Attention heads of the head.
        num_classes: Labels; one more row stands for no label.
        style: Choices that all blocks share.
        use_rope: Rotary positions on all tokens.
        use_position_embedding: Add fixed sine-cosine positions to the backbone's tokens.
    """

    latent_shape: tuple[int, int, int]
    patch_size: int = 1
    backbone_hidden_size: int = 1152
    backbone_depth: int = 28
    backbone_num_heads: int = 16
    head_hidden_size: int = 2048
    head_depth: int = 2
    head_num_heads: int = 16
    num_classes: int = 1000
    style: BlockStyle = BlockStyle()
    use_rope: bool = True
    use_position_embedding: bool = True

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens.

        Raises:
            ValueError: The patch size does not divide the latents.
        """
        height, width, _ = self.latent_shape
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"denoiser.patch_size must divide the latents' {height}x{width} grid, got "
                f"{self.patch_size}"
            )
        return height // self.patch_size, width // self.patch_size


class DiTDH(nnx.Module):
    """Predicts from noisy latents, time and label.

    The backbone turns the noisy latents into a state per token, s = silu(t + tokens); the head
    draws on a second embedding of the latents, every token modulated by its state.
    Initialisation: embedders xavier-uniform with zero bias; time MLP and label table N(0, 0.02²);
    modulations and output zero; all else as torch's Linear.
    """

    def __init__(
        self,
        config: DiTDHConfig,
        *,
        dtype: DTypeLike,
        unroll: int = 1,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        """Builds the denoiser.

        Args:
            config: Sizes.
            dtype: Compute dtype; predictions come out in float32.
            unroll: Blocks per iteration of the scans.
            remat: What the backward pass recomputes, see `scan_layers`.
            rngs: Source of the initial parameters.
        """
        self.config, self.dtype, self.unroll, self.remat = config, dtype, unroll, remat
        width, head_width = config.backbone_hidden_size, config.head_hidden_size
        channels, patch = config.latent_shape[2], config.patch_size
        made = {"dtype": dtype, "rngs": rngs}
        self.backbone_embedding = PatchEmbedding(patch, channels, width, **made)
        self.head_embedding = PatchEmbedding(patch, channels, head_width, **made)
        self.time_embedding = GaussianFourierEmbedding(width, **made)
        self.label_embedding = LabelEmbedding(config.num_classes, width, **made)
        self.position_table = nnx.data(None)
        if config.use_position_embedding:
            self.position_table = Buffer(jnp.asarray(sincos_2d(width, *config.grid)))
        self.backbone = self._stack(width, config.backbone_num_heads, config.backbone_depth, rngs)
        self.state_projection = nnx.data(
            torch_linear(width, head_width, **made) if width != head_width else None
        )
        self.head = self._stack(head_width, config.head_num_heads, config.head_depth, rngs)
        self.norm = config.style.norm(head_width, rngs=rngs)
        chunks = 2 if config.style.use_shift else 1
        self.modulation = zero_linear(head_width, chunks * head_width, **made)
        self.prediction = zero_linear(head_width, patch**2 * channels, **made)

    def _stack(self, width: int, num_heads: int, depth: int, rngs: nnx.Rngs) -> AdaLNBlock:
        return stack_layers(
            lambda layer_rngs: AdaLNBlock(
                width,
                num_heads,
                self.config.style,
                linear=torch_linear,
                dtype=self.dtype,
                rngs=layer_rngs,
            ),
            depth,
            rngs,
        )

    @property
    def null_label(self) -> int:
        """Label that stands for none: the last row of the table."""
        return self.config.num_classes

    def __call__(
        self,
        noisy_latents: Float[Array, "B h w C"],
        t: Float[Array, " B"],
        labels: Int[Array, " B"],
    ) -> DenoiserOutput:
        """Predicts.

        Args:
            noisy_latents: At the times `t`.
            t: In [0, 1], 1 being noise.
            labels: Classes, or `null_label`.
        """
        return self.predict(noisy_latents, self.backbone_state(noisy_latents, t, labels))

    def backbone_state(
        self,
        noisy_latents: Float[Array, "B h w C"],
        t: Float[Array, " B"],
        labels: Int[Array, " B"],
    ) -> Float[Array, "B N D"]:
        """The state of every token that conditions the head; several steps may share one."""
        time = self.time_embedding(t)[:, None].astype(self.dtype)
        label = self.label_embedding(labels)[:, None]
        condition = jax.nn.silu(time + label)
        tokens = self.backbone_embedding(noisy_latents).astype(self.dtype)
        if self.position_table is not None:
            tokens = tokens + self.position_table[...][None].astype(self.dtype)
        rotary = self._rotary(self.config.backbone_hidden_size // self.config.backbone_num_heads)
        tokens = self._scan(self.backbone, tokens, condition, rotary)
        return jax.nn.silu(time + tokens)

    def predict(
        self, noisy_latents: Float[Array, "B h w C"], state: Float[Array, "B N D"]
    ) -> DenoiserOutput:
        """The head's answer, given the backbone's state."""
        condition = state if self.state_projection is None else self.state_projection(state)
        tokens = self.head_embedding(noisy_latents).astype(self.dtype)
        rotary = self._rotary(self.config.head_hidden_size // self.config.head_num_heads)
        tokens = self._scan(self.head, tokens, condition, rotary)
        chunks = self.modulation(jax.nn.silu(condition))
        if self.config.style.use_shift:
            shift, scale = jnp.split(chunks, 2, axis=-1)
        else:
            shift, scale = jnp.zeros_like(chunks), chunks
        normed = self.norm(tokens).astype(tokens.dtype)
        patches = self.prediction(modulate(normed, shift, scale)).astype(jnp.float32)
        return DenoiserOutput(unpatchify(patches, self.config.grid, self.config.patch_size))

    def _rotary(self, head_dim: int) -> Rotary | None:
        if not self.config.use_rope:
            return None
        cos, sin = rotary_table(*self.config.grid, head_dim)
        return jnp.asarray(cos), jnp.asarray(sin)

    def _scan(
        self,
        blocks: AdaLNBlock,
        tokens: Float[Array, "B N D"],
        condition: Float[Array, "B M D"],
        rotary: Rotary | None,
    ) -> Float[Array, "B N D"]:
        return scan_layers(
            lambda tokens, block: block(tokens, condition, rotary),
            blocks,
            tokens,
            unroll=self.unroll,
            remat=self.remat,
        )
