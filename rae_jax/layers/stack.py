"""Stacks of like layers: one set of parameters with a leading layer axis, applied by a scan.

Compilation time does not grow with depth, and there are few arrays to dispatch.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import jax
from flax import nnx

from rae_jax.sharding.constrain import constrain_batch

M = TypeVar("M", bound=nnx.Module)
Carry = TypeVar("Carry")

Remat = Literal["none", "full", "dots"]


def stack_layers(make: Callable[[nnx.Rngs], M], depth: int, rngs: nnx.Rngs) -> M:
    """`depth` layers made by `make`, every leaf with a leading axis of that length."""
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    return jax.vmap(make)(rngs.split(depth))


def scan_layers(
    body: Callable[[Carry, Any], Carry],
    layers: Any,
    carry: Carry,
    *,
    unroll: int = 1,
    remat: str = "none",
    keep_outputs: bool = False,
) -> Any:
    """Applies `carry = body(carry, layer)` for every layer in turn.

    Args:
        body: One layer's work.
        layers: A stacked module, or any tree whose leaves have a leading layer axis.
        carry: What goes into the first layer. One array, such as tokens, has the batch first and
            stays cut over it; else XLA may gather activations rather than the layer's parameters.
        unroll: Layers per loop iteration; more may run faster and compiles longer.
        remat: What the backward pass recomputes: "none", "full" (everything), "dots" (everything
            but matrix products without batch axes).
        keep_outputs: Also return every layer's output, stacked.

    Returns:
        The last carry, or `(carry, outputs)` with `keep_outputs`.
    """
    if remat not in get_args(Remat):
        raise ValueError(f"remat must be one of {get_args(Remat)}, got {remat!r}")

    def step(carry: Carry, layer: Any) -> tuple[Carry, Any]:
        carry = body(constrain_batch(carry) if isinstance(carry, jax.Array) else carry, layer)
        return carry, (carry if keep_outputs else None)

    if remat != "none":
        policy = (
            jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
        )
        step = jax.checkpoint(step, prevent_cse=False, policy=policy)
    carry, outputs = jax.lax.scan(step, carry, layers, unroll=unroll)
    return (carry, outputs) if keep_outputs else carry
