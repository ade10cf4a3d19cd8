"""Transformer block conditioned by adaptive norms (DiT, arXiv:2212.09748)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.attention import Rotary, SelfAttention
from rae_jax.layers.linear import LinearFactory
from rae_jax.layers.mlp import Mlp, SwiGLU, tanh_gelu
from rae_jax.layers.norms import PlainLayerNorm, affine_layer_norm, rms_norm
from rae_jax.ops.modulation import modulate
from rae_jax.typing import Array, DTypeLike, Float


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """Choices that all blocks of a model share.

    Attributes:
        mlp_ratio: Inner width of the feed-forward layer over the token width; SwiGLU has two
            thirds of it.
        use_qk_norm: Normalise queries and keys.
        use_swiglu: SwiGLU, else an MLP with tanh-GELU.
        use_rms_norm: RMSNorm with gain, else LayerNorm without affine part.
        use_shift: Modulate with shift and scale, else with scale alone.
    """

    mlp_ratio: float = 4.0
    use_qk_norm: bool = False
    use_swiglu: bool = True
    use_rms_norm: bool = True
    use_shift: bool = True

    def norm(self, hidden_size: int, *, rngs: nnx.Rngs) -> nnx.Module:
        """Norm of tokens."""
        return rms_norm(hidden_size, rngs=rngs) if self.use_rms_norm else PlainLayerNorm()


def zero_linear(
    in_features: int, out_features: int, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Linear:
    """Linear layer that starts at zero, kernel and bias."""
    return nnx.Linear(
        in_features,
        out_features,
        kernel_init=jax.nn.initializers.zeros,
        dtype=dtype,
        rngs=rngs,
    )


class AdaLNBlock(nnx.Module):
    """x += gate * attention(mod(norm x)); x += gate * mlp(mod(norm x)).

    Modulations and gates are a linear map of silu(condition), in the order shift, scale, gate for
    attention, then for the MLP; they start at zero, so the block starts as the identity.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        style: BlockStyle,
        *,
        linear: LinearFactory,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        qk_norm = rms_norm if style.use_rms_norm else affine_layer_norm
        inner = int(hidden_size * style.mlp_ratio)
        self.use_shift = style.use_shift
        self.norm_1 = style.norm(hidden_size, rngs=rngs)
        self.attention = SelfAttention(
            hidden_size,
            num_heads,
            qk_norm=qk_norm if style.use_qk_norm else None,
            linear=linear,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm_2 = style.norm(hidden_size, rngs=rngs)
        if style.use_swiglu:
            self.mlp = SwiGLU(
                hidden_size, int(2 / 3 * inner), linear=linear, dtype=dtype, rngs=rngs
            )
        else:
            self.mlp = Mlp(
                hidden_size, inner, activation=tanh_gelu, linear=linear, dtype=dtype, rngs=rngs
            )
        chunks = 6 if style.use_shift else 4
        self.modulation = zero_linear(hidden_size, chunks * hidden_size, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "B N D"],
        condition: Float[Array, "B M D"],
        rotary: Rotary | None,
    ) -> Float[Array, "B N D"]:
        """One block; M is 1 or N, see `modulate`."""
        chunks = self.modulation(jax.nn.silu(condition))
        if self.use_shift:
            shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(chunks, 6, axis=-1)
        else:
            scale_1, gate_1, scale_2, gate_2 = jnp.split(chunks, 4, axis=-1)
            shift_1 = shift_2 = jnp.zeros_like(scale_1)
        normed = self.norm_1(tokens).astype(tokens.dtype)
        tokens = tokens + gate_1 * self.attention(modulate(normed, shift_1, scale_1), rotary)
        normed = self.norm_2(tokens).astype(tokens.dtype)
        return tokens + gate_2 * self.mlp(modulate(normed, shift_2, scale_2))
