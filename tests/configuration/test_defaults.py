"""Starting points of config files."""

import pytest

from rae_jax.configuration import defaults, schema


@pytest.mark.parametrize(
    ("make", "cls"),
    [
        (defaults.stage1, schema.Stage1Config),
        (defaults.stage2, schema.Stage2Config),
        (defaults.statistics, schema.StatisticsConfig),
        (defaults.sampling, schema.SamplingConfig),
        (defaults.reconstruction, schema.ReconstructionConfig),
    ],
)
def test_defaults_are_those_of_the_schema(make, cls):
    assert schema.parse(cls, make()) == cls()


def test_keys_are_locked_and_copies_independent():
    config = defaults.stage1()
    with pytest.raises(AttributeError, match="learning_rate"):
        config.optimizer.lerning_rate = 1.0
    config.optimizer.learning_rate = 1.0
    assert defaults.stage1().optimizer.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("name", "depth", "width", "heads"),
    [
        ("dit_dh_s", 12, 384, 6),
        ("dit_dh_b", 12, 768, 12),
        ("dit_dh_l", 24, 1024, 16),
        ("dit_dh_xl", 28, 1152, 16),
    ],
)
def test_published_denoisers_fit_into_stage2(name, depth, width, heads):
    config = defaults.stage2()
    config.denoiser = defaults.denoiser(name)
    parsed = schema.parse(schema.Stage2Config, config).denoiser
    assert (parsed.backbone_depth, parsed.backbone_hidden_size) == (depth, width)
    assert parsed.backbone_num_heads == heads
    assert (parsed.head_hidden_size, parsed.head_depth, parsed.head_num_heads) == (2048, 2, 16)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("vit_b", (768, 12, 12, 3072)),
        ("vit_l", (1024, 24, 16, 4096)),
        ("vit_xl", (1152, 28, 16, 4096)),
    ],
)
def test_published_decoders_fit_into_stage1(name, sizes):
    config = defaults.stage1()
    config.autoencoder.decoder = defaults.decoder(name)
    parsed = schema.parse(schema.Stage1Config, config).autoencoder.decoder
    assert (
        parsed.hidden_size,
        parsed.depth,
        parsed.num_heads,
        parsed.intermediate_size,
    ) == sizes
    assert parsed.patch_size == 16


def test_unknown_size_names_the_nearest():
    with pytest.raises(schema.ConfigError, match="unknown denoiser 'dit_dh_xs': did you mean"):
        defaults.denoiser("dit_dh_xs")
