"""Feed-forward halves of transformer blocks."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.linear import LinearFactory, xavier_linear
from rae_jax.typing import Array, DTypeLike, Float


def exact_gelu(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """x·Φ(x) with the error function, as torch's `nn.GELU()`."""
    if values.dtype != jnp.float32:
        return jax.nn.gelu(values, approximate=False)
    # JAX's own takes erfc, which keeps digits of Φ where x·Φ(x) is next to nothing, and costs
    # twice the time on CPU; in few bits 1 + erf would lose too many.
    return 0.5 * values * (1 + jax.lax.erf(values * math.sqrt(0.5)))


def tanh_gelu(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """The tanh approximation of GELU."""
    return jax.nn.gelu(values, approximate=True)


class Mlp(nnx.Module):
    """down(activation(up(tokens))).

    `activation` must be a module-level function: a lambda would make every instance a new static
    definition, and so a new trace.
    """

    def __init__(
        self,
        hidden_size: int,
        inner_size: int,
        *,
        activation: Callable[[Array], Array],
        linear: LinearFactory = xavier_linear,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.up = linear(hidden_size, inner_size, dtype=dtype, rngs=rngs)
        self.down = linear(inner_size, hidden_size, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Transforms every token alone."""
        return self.down(self.activation(self.up(tokens)))


class SwiGLU(nnx.Module):
    """down(silu(gate(tokens)) * up(tokens)) (Shazeer 2020, arXiv:2002.05202).

    Gate and up projection are one matrix, gate first.
    """

    def __init__(
        self,
        hidden_size: int,
        inner_size: int,
        *,
        linear: LinearFactory = xavier_linear,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.gate_up = linear(hidden_size, 2 * inner_size, dtype=dtype, rngs=rngs)
        self.down = linear(inner_size, hidden_size, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Transforms every token alone."""
        gate, up = jnp.split(self.gate_up(tokens), 2, axis=-1)
        return self.down(jax.nn.silu(gate) * up)
