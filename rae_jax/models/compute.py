"""How models compute."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from rae_jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class Compute:
    """Settings that change speed, memory and rounding, but no parameter.

    Attributes:
        dtype: Compute dtype.
        unroll: Layers per iteration of the loops over layers.
        remat: What the backward pass recomputes, see `scan_layers`.
    """

    dtype: DTypeLike = "float32"
    unroll: int = 1
    remat: str = "none"

    @classmethod
    def of(cls, config: Any) -> "Compute":
        """The fields of that name in a training configuration."""
        return cls(config.dtype, config.unroll, config.remat)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the models."""
        return {"dtype": jnp.dtype(self.dtype), "unroll": self.unroll, "remat": self.remat}
