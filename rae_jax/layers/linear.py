"""Linear layers by their initialisation, as factories that blocks take as an argument.

A factory is called as `factory(in_features, out_features, use_bias=..., dtype=..., rngs=...)`.
They are plain functions, so modules that hold one still compare equal between instances.
"""

from collections.abc import Callable

import jax
from flax import nnx

from rae_jax.typing import DTypeLike

LinearFactory = Callable[..., nnx.Linear]


def xavier_linear(
    in_features: int,
    out_features: int,
    *,
    use_bias: bool = True,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Kernel xavier-uniform as one matrix, bias zero: the rule of MAE and of DiT."""
    return nnx.Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=jax.nn.initializers.xavier_uniform(),
        dtype=dtype,
        rngs=rngs,
    )


def normal_linear(
    in_features: int,
    out_features: int,
    *,
    use_bias: bool = True,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Kernel N(0, 0.02²), bias zero: the rule of BERT and of DINOv2."""
    return nnx.Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=jax.nn.initializers.normal(0.02),
        dtype=dtype,
        rngs=rngs,
    )


def torch_linear(
    in_features: int,
    out_features: int,
    *,
    use_bias: bool = True,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Kernel and bias uniform within ±1/sqrt(in_features): what torch's nn.Linear starts from."""
    bound = in_features**-0.5

    def uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=uniform,
        bias_init=uniform,
        dtype=dtype,
        rngs=rngs,
    )
