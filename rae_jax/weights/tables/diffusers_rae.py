"""`diffusion_pytorch_model` files of diffusers' AutoencoderRAE."""

import dataclasses
from collections.abc import Iterable

from rae_jax.models.autoencoders.rae_config import RAEConfig
from rae_jax.weights.pretrained import encoder_table
from rae_jax.weights.table import Rule, WeightTable, squeeze
from rae_jax.weights.tables.vit_decoder import vit_decoder_rules
from rae_jax.weights.tables.vit_layers import Style

ENCODER, DECODER = "encoder.", "decoder."

_ATTENTION = ["attention.to_q", "attention.to_k", "attention.to_v"]
_ATTENTION_OUT = "attention.to_out.0"

POSITIONS = DECODER + "decoder_pos_embed"
"""Entry of the decoder's positions: diffusers makes its own, neither reads nor writes it."""

_POSITION_TABLE = "decoder.position_table"


def diffusers_rae_table(
    config: RAEConfig, keys: Iterable[str] | None = None, *, style: Style = "transformers5"
) -> WeightTable:
    """Rows that join a file and a module with the parts `encoder`, `decoder` and four buffers.

    Args:
        config: The autoencoder's options.
        keys: Entries of the file to read. None gives the names to write.
        style: Which transformers' names of the encoder to write; not used with `keys`.
    """
    encoder = encoder_table(config.encoder(), keys, prefix=ENCODER, style=style)
    rules = [
        *_below("encoder", encoder.rules),
        *_below("decoder", vit_decoder_rules(DECODER, _ATTENTION, _ATTENTION_OUT)),
        Rule(POSITIONS, _POSITION_TABLE, squeeze(1)),
        Rule("encoder_mean", "image_mean"),
        Rule("encoder_std", "image_std"),
        Rule("_latents_mean", "latents_mean"),
        Rule("_latents_std", "latents_std"),
    ]
    return WeightTable(
        tuple(rules), ignored_source=encoder.ignored_source, optional_target=(_POSITION_TABLE,)
    )


def _below(part: str, rules: Iterable[Rule]) -> list[Rule]:
    return [dataclasses.replace(rule, target=f"{part}.{rule.target}") for rule in rules]
