"""Builds denoisers from golden cases, whose configurations have the published names."""

import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.adaln_block import BlockStyle
from rae_jax.layers.functional import abstract
from rae_jax.models.denoisers.dit_dh import DiTDH, DiTDHConfig
from rae_jax.models.denoisers.lightning_dit import LightningDiT, LightningDiTConfig
from rae_jax.ops.positions import sincos_2d
from rae_jax.weights.convert import load
from rae_jax.weights.tables.dit_dh import dit_dh_table
from rae_jax.weights.tables.lightning_dit import lightning_dit_table


def block_style(config):
    return BlockStyle(
        mlp_ratio=config.get("mlp_ratio", 4.0),
        use_qk_norm=config.get("use_qknorm", False),
        use_swiglu=config.get("use_swiglu", True),
        use_rms_norm=config.get("use_rmsnorm", True),
        use_shift=not config.get("wo_shift", False),
    )


def dit_dh_config(config):
    heads = config["num_heads"]
    heads = [heads, heads] if isinstance(heads, int) else heads
    (width, head_width), (depth, head_depth) = config["hidden_size"], config["depth"]
    return DiTDHConfig(
        latent_shape=(config["input_size"], config["input_size"], config["in_channels"]),
        patch_size=config.get("patch_size", 1),
        backbone_hidden_size=width,
        backbone_depth=depth,
        backbone_num_heads=heads[0],
        head_hidden_size=head_width,
        head_depth=head_depth,
        head_num_heads=heads[1],
        num_classes=config["num_classes"],
        has_null_label=config.get("class_dropout_prob", 0.1) > 0,
        style=block_style(config),
        use_rope=config.get("use_rope", True),
        use_position_embedding=config.get("use_pos_embed", True),
    )


def loaded_dit_dh(case, node=None):
    """The model of a case, or of a part of one such as its guide, with its recipe weights."""
    config = dit_dh_config(case.config if node is None else node["config"])
    denoiser = abstract(lambda: DiTDH(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    load(dit_dh_table(config), case.entries(node=node), denoiser)
    if config.use_position_embedding:
        # Constructed upstream, so the recipe has no entry for it.
        table = sincos_2d(config.backbone_hidden_size, *config.grid)
        denoiser.position_table.set_value(jnp.asarray(table))
    return denoiser


def lightning_dit_config(config):
    return LightningDiTConfig(
        latent_shape=(config["input_size"], config["input_size"], config["in_channels"]),
        patch_size=config.get("patch_size", 1),
        hidden_size=config["hidden_size"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        num_classes=config["num_classes"],
        has_null_label=config.get("class_dropout_prob", 0.1) > 0,
        style=block_style(config),
        use_rope=config.get("use_rope", True),
        has_sigma=config.get("learn_sigma", False),
    )


def loaded_lightning_dit(case, node=None):
    """The model of a case, or of a part of one such as its guide, with its recipe weights."""
    config = lightning_dit_config(case.config if node is None else node["config"])
    denoiser = abstract(lambda: LightningDiT(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    load(lightning_dit_table(config), case.entries(node=node), denoiser)
    table = sincos_2d(config.hidden_size, *config.grid)
    denoiser.position_table.set_value(jnp.asarray(table))
    return denoiser
