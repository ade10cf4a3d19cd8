"""The VGG16 of torchvision."""

from rae_jax.weights.table import CONV_2D, Rule, WeightTable

_PLACES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Indices of the convolutions of each block among all layers."""


def vgg_rules(prefix: str = "") -> tuple[Rule, ...]:
    """Rows of `VGG16`, whose path in the model `prefix` is."""
    rules = []
    for block, places in enumerate(_PLACES):
        for index, place in enumerate(places):
            target = f"{prefix}blocks.{block}.{index}"
            rules.append(Rule(f"features.{place}.weight", f"{target}.kernel", CONV_2D))
            rules.append(Rule(f"features.{place}.bias", f"{target}.bias"))
    return tuple(rules)


VGG16_TABLE = WeightTable(vgg_rules(), ignored_source=(r"classifier\..*",))
"""Rows of `VGG16`; the classifier is not used."""
