"""Every kind of published file by name: its rows, and what else it holds.

Whole autoencoders of diffusers are the one kind whose rows depend on more than a module: see
`weights.autoencoders`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.functional import Buffer
from rae_jax.ops.rope import rotary_table
from rae_jax.weights.pretrained import encoder_table
from rae_jax.weights.table import CHANNELS_LAST, Rule, WeightTable
from rae_jax.weights.tables.dit_dh import dit_dh_table
from rae_jax.weights.tables.lightning_dit import lightning_dit_table
from rae_jax.weights.tables.vit_decoder import VIT_DECODER

STATISTICS = WeightTable(
    rules=(Rule("mean", "mean", CHANNELS_LAST), Rule("var", "variance", CHANNELS_LAST))
)
"""Rows of `Statistics`."""


class Statistics(nnx.Module):
    """Latent statistics as a file holds them: mean and population variance, [h, w, C]."""

    def __init__(self, mean: np.ndarray, variance: np.ndarray):
        self.mean = Buffer(jnp.asarray(mean, jnp.float32))
        self.variance = Buffer(jnp.asarray(variance, jnp.float32))


def _nothing(module: Any) -> dict[str, np.ndarray]:
    return {}


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of published file.

    Attributes:
        what: Says in a few words what it is.
        table: Its rows, for a module of that kind.
        constructed: Entries that follow from the sizes of the module, which the original writes
            and expects although nothing in them is trained.
    """

    what: str
    table: Callable[[Any], WeightTable]
    constructed: Callable[[Any], dict[str, np.ndarray]] = _nothing


def _rotary(name: str, grid: tuple[int, int], head_dim: int) -> dict[str, np.ndarray]:
    cosines, sines = rotary_table(*grid, head_dim)
    return {f"{name}.freqs_cos": cosines, f"{name}.freqs_sin": sines}


def _dit_dh_rotary(module: Any) -> dict[str, np.ndarray]:
    config = module.config
    if not config.use_rope:
        return {}
    backbone = config.backbone_hidden_size // config.backbone_num_heads
    head = config.head_hidden_size // config.head_num_heads
    return _rotary("enc_feat_rope", config.grid, backbone) | _rotary(
        "dec_feat_rope", config.grid, head
    )


def _lightning_dit_rotary(module: Any) -> dict[str, np.ndarray]:
    config = module.config
    if not config.use_rope:
        return {}
    return _rotary("feat_rope", config.grid, config.hidden_size // config.num_heads)


KINDS: Mapping[str, Kind] = {
    "encoder": Kind(
        "folder of an encoder as transformers writes it",
        lambda module: encoder_table(module.config),
    ),
    "decoder": Kind("ViT decoder of the RAE release, model.pt", lambda module: VIT_DECODER),
    "statistics": Kind("latent statistics of the RAE release, stat.pt", lambda module: STATISTICS),
    "dit_dh": Kind(
        "DiTDH of the RAE release, stage2_model.pt",
        lambda module: dit_dh_table(module.config),
        _dit_dh_rotary,
    ),
    "lightning_dit": Kind(
        "LightningDiT of the RAE release, stage2_model.pt",
        lambda module: lightning_dit_table(module.config),
        _lightning_dit_rotary,
    ),
}
"""By the name that the porting tools give it."""

AUTOENCODER = "autoencoder"
"""Name of the kind of folders of diffusers."""

NAMES = (*KINDS, AUTOENCODER)
"""All kinds."""
