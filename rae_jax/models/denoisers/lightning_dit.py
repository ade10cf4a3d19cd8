"""LightningDiT (arXiv:2501.01423): one trunk of adaLN blocks, as RAE uses it for comparison.

Upstream file stage2/models/lightningDiT.py of bytetriper/RAE.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.adaln_block import AdaLNBlock, AdaLNOutput
from rae_jax.layers.condition_embeddings import GaussianFourierEmbedding, LabelEmbedding
from rae_jax.layers.functional import Buffer
from rae_jax.layers.linear import xavier_linear
from rae_jax.layers.patch_embedding import PatchEmbedding
from rae_jax.layers.stack import stack_layers
from rae_jax.models.denoisers.base import DenoiserOutput, DenoiserSizes, TransformerDenoiser
from rae_jax.ops.patches import unpatchify
from rae_jax.ops.positions import sincos_2d
from rae_jax.typing import Array, DTypeLike, Float, Int


@dataclasses.dataclass(frozen=True)
class LightningDiTConfig(DenoiserSizes):
    """Sizes and choices of a LightningDiT; fixed sine-cosine positions are always added.

    Attributes:
        hidden_size: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads.
        has_sigma: The output has twice the channels, of which the second half is dropped, as in
            some published files.
    """

    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    has_sigma: bool = False

    def __post_init__(self) -> None:
        """Rejects sizes that do not fit together."""
        super().__post_init__()
        self.require_heads("hidden_size", self.hidden_size, self.num_heads)


class LightningDiT(TransformerDenoiser):
    """Predicts from noisy latents, time and label.

    Initialisation: kernels xavier-uniform with zero bias, kernels of the time MLP and label table
    N(0, 0.02²), modulations and output zero. The residual stream is float32 whatever the compute
    dtype.
    """

    def __init__(
        self,
        config: LightningDiTConfig,
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
            unroll: Blocks per iteration of the scan.
            remat: What the backward pass recomputes, see `scan_layers`.
            rngs: Source of the initial parameters.
        """
        self.config, self.unroll, self.remat = config, unroll, remat
        width, patch, style = config.hidden_size, config.patch_size, config.style
        channels = config.latent_shape[2]
        self.embedding = PatchEmbedding(patch, channels, width, dtype=dtype, rngs=rngs)
        self.time_embedding = GaussianFourierEmbedding(width, dtype=dtype, rngs=rngs)
        self.label_embedding = LabelEmbedding(
            config.num_classes, width, with_null=config.has_null_label, rngs=rngs
        )
        self.position_table = Buffer(jnp.asarray(sincos_2d(width, *config.grid)))
        self.blocks = stack_layers(
            lambda layer_rngs: AdaLNBlock(
                width, config.num_heads, style, linear=xavier_linear, dtype=dtype, rngs=layer_rngs
            ),
            config.depth,
            rngs,
        )
        out = patch**2 * channels * (2 if config.has_sigma else 1)
        self.output = AdaLNOutput(width, out, style, dtype=dtype, rngs=rngs)

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
        condition = self._condition(t, labels)
        patches = self.output(self._run(self._tokens(noisy_latents), condition), condition)
        grown = unpatchify(patches, self.config.grid, self.config.patch_size)
        return DenoiserOutput(grown[..., : self.config.latent_shape[2]])

    def _condition(self, t: Float[Array, " B"], labels: Int[Array, " B"]) -> Float[Array, "B 1 D"]:
        time = self.time_embedding(t).astype(jnp.float32)
        return (time + self.label_embedding(labels))[:, None]

    def _tokens(self, noisy_latents: Float[Array, "B h w C"]) -> Float[Array, "B N D"]:
        return self._embed(noisy_latents, self.embedding) + self.position_table[...][None]

    def _run(
        self,
        tokens: Float[Array, "B N D"],
        condition: Float[Array, "B 1 D"],
        *,
        keep_outputs: bool = False,
    ) -> Any:
        num_heads = self.config.num_heads
        return self._scan(self.blocks, num_heads, tokens, condition, keep_outputs=keep_outputs)
