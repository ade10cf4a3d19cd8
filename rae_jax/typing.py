"""Array types used in signatures.

Shape letters: B batch, H W image, h w latent grid, N tokens, D width, C channels, L layers.
"""

from collections.abc import Mapping
from typing import Any

from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Key, PyTree, Shaped, UInt8

Tree = Mapping[str, Any]
"""Nested plain dictionaries whose leaves are arrays."""

__all__ = [
    "Array",
    "Bool",
    "DTypeLike",
    "Float",
    "Int",
    "Key",
    "PyTree",
    "Shaped",
    "Tree",
    "UInt8",
]
