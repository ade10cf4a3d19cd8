"""LPIPS 0.1: the file of its weights joined with torchvision's of its network."""

from rae_jax.weights.table import Rule, Transform, WeightTable
from rae_jax.weights.tables.vgg import VGG16_TABLE, vgg_rules

_NUM_LAYERS = 5


_PER_CHANNEL = Transform(
    "1C11 to C", lambda e: e[0].reshape(-1), lambda p, count: [p.reshape(1, -1, 1, 1)]
)

LPIPS_RULES = tuple(
    Rule(f"lin{layer}.model.1.weight", f"weights.{layer}", _PER_CHANNEL)
    for layer in range(_NUM_LAYERS)
)
"""Rows of the weights of `LPIPS`, alike in all copies of `vgg.pth`."""

LPIPS_TABLE = WeightTable(
    (*vgg_rules("network."), *LPIPS_RULES), ignored_source=VGG16_TABLE.ignored_source
)
"""Rows of `LPIPS`."""
