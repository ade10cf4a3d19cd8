"""Starting points for config files: locked dictionaries that hold every legal key.

A config file takes one, sets what differs, and returns it.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rae_jax.configuration import schema
from rae_jax.configuration.section import Section, nearest

Settings = Any
"""A `ConfigDict`, whose declared types would let no file set a key inside a section."""

DECODERS = {
    "vit_s": schema.DecoderConfig(
        hidden_size=384, depth=12, num_heads=6, intermediate_size=1536, patch_size=16
    ),
    "vit_b": schema.DecoderConfig(
        hidden_size=768, depth=12, num_heads=12, intermediate_size=3072, patch_size=16
    ),
    "vit_l": schema.DecoderConfig(
        hidden_size=1024, depth=24, num_heads=16, intermediate_size=4096, patch_size=16
    ),
    "vit_xl": schema.DecoderConfig(),
}
"""Published decoders (bytetriper/RAE, configs/decoder), and ViT-S for one small accelerator."""

DENOISERS: dict[str, schema.DenoiserConfig] = {
    "dit_dh_s": schema.DiTDHConfig(
        backbone_hidden_size=384, backbone_depth=12, backbone_num_heads=6
    ),
    "dit_dh_b": schema.DiTDHConfig(
        backbone_hidden_size=768, backbone_depth=12, backbone_num_heads=12
    ),
    "dit_dh_l": schema.DiTDHConfig(
        backbone_hidden_size=1024, backbone_depth=24, backbone_num_heads=16
    ),
    "dit_dh_xl": schema.DiTDHConfig(),
    "lightning_dit_b": schema.LightningDiTConfig(hidden_size=768, depth=12, num_heads=12),
    "lightning_dit_l": schema.LightningDiTConfig(hidden_size=1024, depth=24, num_heads=16),
    "lightning_dit_xl": schema.LightningDiTConfig(),
}
"""Published denoisers (arXiv 2510.11690 and 2501.01423); heads of DiTDH are 2048 wide, 2 deep."""


def locked(config: Section) -> Settings:
    """`config` as a dictionary whose values, but not keys, can be changed."""
    return ConfigDict(schema.as_dict(config)).lock()


def stage1() -> Settings:
    """All keys of `Stage1Config`: the published recipe for 256 pixels, ViT-XL decoder."""
    return locked(schema.Stage1Config())


def stage2() -> Settings:
    """All keys of `Stage2Config`: the published recipe for 256 pixels, DiTDH-XL."""
    return locked(schema.Stage2Config())


def pretraining() -> Settings:
    """All keys of `PretrainingConfig`: MAE ViT-B as published (arXiv 2111.06377)."""
    return locked(schema.PretrainingConfig())


def statistics() -> Settings:
    """All keys of `StatisticsConfig`."""
    return locked(schema.StatisticsConfig())


def latent_cache() -> Settings:
    """All keys of `LatentCacheConfig`."""
    return locked(schema.LatentCacheConfig())


def sampling() -> Settings:
    """All keys of `SamplingConfig`: unguided Euler over 50 points, as published."""
    return locked(schema.SamplingConfig())


def reconstruction() -> Settings:
    """All keys of `ReconstructionConfig`."""
    return locked(schema.ReconstructionConfig())


def evaluate_generation() -> Settings:
    """All keys of `GenerationEvaluationConfig`."""
    return locked(schema.GenerationEvaluationConfig())


def evaluate_reconstruction() -> Settings:
    """All keys of `ReconstructionEvaluationConfig`."""
    return locked(schema.ReconstructionEvaluationConfig())


def reference_statistics() -> Settings:
    """All keys of `ReferenceStatisticsConfig`."""
    return locked(schema.ReferenceStatisticsConfig())


def packing() -> Settings:
    """All keys of `PackingConfig`."""
    return locked(schema.PackingConfig())


def decoder(name: str) -> Settings:
    """Section `autoencoder.decoder` of a named size: "vit_s", "vit_b", "vit_l" or "vit_xl".

    Raises:
        ConfigError: No such size.
    """
    return _named(DECODERS, name, "decoder")


def denoiser(name: str) -> Settings:
    """Section `denoiser` of a published size, such as "dit_dh_xl"; see `DENOISERS`.

    Raises:
        ConfigError: No such size.
    """
    return _named(DENOISERS, name, "denoiser")


def _named(table: Mapping[str, Section], name: str, what: str) -> Settings:
    if name not in table:
        raise schema.ConfigError(f"unknown {what} {name!r}: {nearest(name, table)}")
    return locked(table[name])


def digits_autoencoder() -> Settings:
    """Section `autoencoder` on the built-in digits: bundled encoder, small decoder, 48 pixels."""
    return locked(
        schema.AutoencoderConfig(
            encoder=schema.EncoderConfig(path="builtin:digits_mae", input_size=48),
            decoder=schema.DecoderConfig(
                hidden_size=128, depth=3, num_heads=4, intermediate_size=512, patch_size=16
            ),
            noise_tau=0.1,
        )
    )


def digits_data() -> Settings:
    """Section `data` for the built-in digits at 48 pixels."""
    return locked(schema.DataConfig(source="digits", image_size=48, crop="none"))


def demo() -> Settings:
    """All keys of `DemoConfig`."""
    return locked(schema.DemoConfig())


def digits_extractor() -> Settings:
    """Section `extractor` with the bundled encoder: lightweight, not Inception."""
    encoder = schema.EncoderConfig(path="builtin:digits_mae", input_size=48)
    return locked(schema.ExtractorConfig(kind="encoder", encoder=encoder))
