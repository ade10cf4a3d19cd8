"""DiTDH: a diffusion transformer with a shallow and wide head (RAE, arXiv:2510.11690, section 5).

The split into a backbone that looks and a head that draws is that of DDT (arXiv:2504.05741);
upstream file stage2/models/DDT.py of bytetriper/RAE.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.adaln_block import AdaLNBlock, AdaLNOutput
from rae_jax.layers.condition_embeddings import GaussianFourierEmbedding, LabelEmbedding
from rae_jax.layers.functional import Buffer
from rae_jax.layers.linear import torch_linear
from rae_jax.layers.patch_embedding import PatchEmbedding
from rae_jax.layers.stack import stack_layers
from rae_jax.models.denoisers.base import DenoiserOutput, DenoiserSizes, TransformerDenoiser
from rae_jax.ops.patches import unpatchify
from rae_jax.ops.positions import sincos_2d
from rae_jax.typing import Array, DTypeLike, Float, Int


@dataclasses.dataclass(frozen=True)
class DiTDHConfig(DenoiserSizes):
    """Sizes and choices of a DiTDH.

    Attributes:
        backbone_hidden_size: Width of the backbone.
        backbone_depth: Blocks of the backbone.
        backbone_num_heads: Attention heads of the backbone.
        head_hidden_size: Width of the head.
        head_depth: Blocks of the head.
        head_num_heads: Attention heads of the head.
        use_position_embedding: Add fixed sine-cosine positions to the backbone's tokens.
    """

    backbone_hidden_size: int = 1152
    backbone_depth: int = 28
    backbone_num_heads: int = 16
    head_hidden_size: int = 2048
    head_depth: int = 2
    head_num_heads: int = 16
    use_position_embedding: bool = True

    def __post_init__(self) -> None:
        """Rejects sizes that do not fit together."""
        super().__post_init__()
        for part in ("backbone", "head"):
            name = f"{part}_hidden_size"
            self.require_heads(name, getattr(self, name), getattr(self, f"{part}_num_heads"))


PRESETS: dict[str, dict[str, Any]] = {
    "s": {"backbone_hidden_size": 384, "backbone_depth": 12, "backbone_num_heads": 6},
    "b": {"backbone_hidden_size": 768, "backbone_depth": 12, "backbone_num_heads": 12},
    "l": {"backbone_hidden_size": 1024, "backbone_depth": 24, "backbone_num_heads": 16},
    "xl": {"backbone_hidden_size": 1152, "backbone_depth": 28, "backbone_num_heads": 16},
}
"""Published sizes, as keyword arguments of `DiTDHConfig`; the head is its default."""


class DiTDH(TransformerDenoiser):
    """Predicts from noisy latents, time and label.

    The backbone turns the noisy latents into a state per token, s = silu(t + tokens); the head
    draws on a second embedding of the latents, every token modulated by its state.
    Initialisation: embedders xavier-uniform with zero bias; kernels of the time MLP and label table
    N(0, 0.02²); modulations and output zero; all else as torch's Linear. The residual stream is
    float32 whatever the compute dtype.
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
        self.time_embedding = GaussianFourierEmbedding(width, linear=torch_linear, **made)
        self.label_embedding = LabelEmbedding(
            config.num_classes, width, with_null=config.has_null_label, rngs=rngs
        )
        self.position_table = nnx.data(None)
        if config.use_position_embedding:
            self.position_table = Buffer(jnp.asarray(sincos_2d(width, *config.grid)))
        self.backbone = self._stack(width, config.backbone_num_heads, config.backbone_depth, rngs)
        self.state_projection = nnx.data(None)
        if width != head_width:
            self.state_projection = torch_linear(width, head_width, **made)
        self.head = self._stack(head_width, config.head_num_heads, config.head_depth, rngs)
        self.output = AdaLNOutput(head_width, patch**2 * channels, config.style, **made)

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
            labels: Classes, or `null_label`; the prediction is NaN for any other.
        """
        return self.predict(noisy_latents, self.backbone_state(noisy_latents, t, labels))

    def backbone_state(
        self,
        noisy_latents: Float[Array, "B h w C"],
        t: Float[Array, " B"],
        labels: Int[Array, " B"],
    ) -> Float[Array, "B N D"]:
        """The state of every token that conditions the head; several steps may share one."""
        time = self.time_embedding(t)[:, None].astype(jnp.float32)
        condition = jax.nn.silu(time + self.label_embedding(labels)[:, None])
        tokens = self._embed(noisy_latents, self.backbone_embedding)
        if self.position_table is not None:
            tokens = tokens + self.position_table[...][None]
        return jax.nn.silu(time + self._run("backbone", tokens, condition))

    def predict(
        self, noisy_latents: Float[Array, "B h w C"], state: Float[Array, "B M D"]
    ) -> DenoiserOutput:
        """The head's answer, given the backbone's state.

        A state of fewer tokens than the latents have, by a divisor, conditions runs of them.
        """
        condition = state if self.state_projection is None else self.state_projection(state)
        tokens = self._embed(noisy_latents, self.head_embedding)
        patches = self.output(self._run("head", tokens, condition), condition)
        return DenoiserOutput(unpatchify(patches, self.config.grid, self.config.patch_size))

    def _run(
        self,
        part: str,
        tokens: Float[Array, "B N D"],
        condition: Float[Array, "B M D"],
        *,
        keep_outputs: bool = False,
    ) -> Any:
        """The blocks of the backbone or the head."""
        num_heads = getattr(self.config, f"{part}_num_heads")
        blocks = getattr(self, part)
        return self._scan(blocks, num_heads, tokens, condition, keep_outputs=keep_outputs)
