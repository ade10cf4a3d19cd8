"""Transformer layers conditioned by adaptive norms (DiT, arXiv:2212.09748)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.attention import Rotary, SelfAttention
from rae_jax.layers.linear import LinearFactory
from rae_jax.layers.mlp import Mlp, SwiGLU, tanh_gelu
from rae_jax.layers.norms import NormFactory, affine_layer_norm, plain_layer_norm, rms_norm
from rae_jax.ops.modulation import gate, modulate
from rae_jax.typing import Array, DTypeLike, Float


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """Choices that all blocks of a model share (LightningDiT, arXiv:2501.01423).

    Attributes:
        mlp_ratio: Inner width of the feed-forward layer over the token width; SwiGLU has two
            thirds of it.
        use_qk_norm: Normalise queries and keys.
        use_swiglu: SwiGLU, else an MLP with tanh-GELU.
        use_rms_norm: RMSNorm with gain, else LayerNorm without affine part.
        use_shift: Blocks modulate with shift and scale, else with scale alone.
    """

    mlp_ratio: float = 4.0
    use_qk_norm: bool = False
    use_swiglu: bool = True
    use_rms_norm: bool = True
    use_shift: bool = True

    @property
    def norm(self) -> NormFactory:
        """Norm of tokens."""
        return rms_norm if self.use_rms_norm else plain_layer_norm

    @property
    def qk_norm(self) -> NormFactory | None:
        """Norm of queries and keys; LayerNorm has an affine part here."""
        if not self.use_qk_norm:
            return None
        return rms_norm if self.use_rms_norm else affine_layer_norm

    def feed_forward(
        self, hidden_size: int, *, linear: LinearFactory, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> SwiGLU | Mlp:
        """The second half of a block."""
        inner = int(hidden_size * self.mlp_ratio)
        if self.use_swiglu:
            inner = int(2 / 3 * inner)
            return SwiGLU(hidden_size, inner, linear=linear, dtype=dtype, rngs=rngs)
        return Mlp(hidden_size, inner, activation=tanh_gelu, linear=linear, dtype=dtype, rngs=rngs)


def _zero_linear(
    in_features: int, out_features: int, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Linear:
    """Linear layer that starts at zero, kernel and bias."""
    zeros = jax.nn.initializers.zeros
    return nnx.Linear(in_features, out_features, kernel_init=zeros, dtype=dtype, rngs=rngs)


class AdaLNBlock(nnx.Module):
    """x += gate * attention(mod(norm(x))); x += gate * mlp(mod(norm(x))).

    Modulations and gates are a linear map of silu(condition), in the order shift, scale, gate for
    attention, then for the MLP. It starts at zero, so the block starts as the identity. Norms,
    modulation and the residual sum keep the tokens' dtype; attention and MLP compute in `dtype`.
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
        self.use_shift = style.use_shift
        self.norm_1 = style.norm(hidden_size, rngs=rngs)
        self.attention = SelfAttention(
            hidden_size, num_heads, qk_norm=style.qk_norm, linear=linear, dtype=dtype, rngs=rngs
        )
        self.norm_2 = style.norm(hidden_size, rngs=rngs)
        self.mlp = style.feed_forward(hidden_size, linear=linear, dtype=dtype, rngs=rngs)
        chunks = 6 if style.use_shift else 4
        self.modulation = _zero_linear(hidden_size, chunks * hidden_size, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "B N D"],
        condition: Float[Array, "B M D"],
        rotary: Rotary | None,
    ) -> Float[Array, "B N D"]:
        """One block; M is 1 or a divisor of N, see `modulate`."""
        chunks = self.modulation(jax.nn.silu(condition))
        if self.use_shift:
            shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(chunks, 6, axis=-1)
        else:
            scale_1, gate_1, scale_2, gate_2 = jnp.split(chunks, 4, axis=-1)
            shift_1 = shift_2 = None
        mixed = self.attention(modulate(self.norm_1(tokens), shift_1, scale_1), rotary)
        tokens = tokens + gate(mixed.astype(tokens.dtype), gate_1)
        mixed = self.mlp(modulate(self.norm_2(tokens), shift_2, scale_2))
        return tokens + gate(mixed.astype(tokens.dtype), gate_2)


class AdaLNOutput(nnx.Module):
    """linear(mod(norm(x))): tokens to what they stand for; starts at zero.

    Shift and scale, in that order, are a linear map of silu(condition), whatever the blocks do.
    """

    def __init__(
        self,
        hidden_size: int,
        out_features: int,
        style: BlockStyle,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm = style.norm(hidden_size, rngs=rngs)
        self.modulation = _zero_linear(hidden_size, 2 * hidden_size, dtype=dtype, rngs=rngs)
        self.linear = _zero_linear(hidden_size, out_features, dtype=dtype, rngs=rngs)

    def __call__(
        self, tokens: Float[Array, "B N D"], condition: Float[Array, "B M D"]
    ) -> Float[Array, "B N F"]:
        """Float32; M is 1 or a divisor of N, see `modulate`."""
        shift, scale = jnp.split(self.modulation(jax.nn.silu(condition)), 2, axis=-1)
        return self.linear(modulate(self.norm(tokens), shift, scale)).astype(jnp.float32)
