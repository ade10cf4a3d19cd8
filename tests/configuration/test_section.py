"""Parsing of nested dictionaries and checks of values."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from rae_jax.configuration import schema
from rae_jax.configuration.section import Section, nearest, summary

RUNS = [
    schema.Stage1Config,
    schema.Stage2Config,
    schema.SamplingConfig,
    schema.StatisticsConfig,
    schema.ReconstructionConfig,
]


def error_of(cls, values) -> str:
    with pytest.raises(schema.ConfigError) as caught:
        schema.parse(cls, values)
    return str(caught.value)


@pytest.mark.parametrize("cls", RUNS)
def test_parse_of_as_dict_gives_the_same_instance_back(cls):
    assert schema.parse(cls, schema.as_dict(cls())) == cls()
    assert schema.parse(cls, ConfigDict(schema.as_dict(cls()))) == cls()


def test_missing_keys_keep_the_default_of_the_section_where_it_stands():
    config = schema.parse(schema.Stage2Config, {"optimizer": {"learning_rate": 1e-3}})
    assert config.optimizer == schema.OptimizerConfig(learning_rate=1e-3, clip_norm=1.0)
    assert schema.parse(schema.Stage1Config, {"optimizer": {}}).optimizer.clip_norm == 0


def test_instances_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        schema.Stage1Config().seed = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimiser": {}}, "unknown key 'optimiser' in Stage2Config: did you mean 'optimizer'?"),
        (
            {"optimizer": {"lerning_rate": 1.0}},
            "unknown key 'optimizer.lerning_rate' in OptimizerConfig: "
            "did you mean 'learning_rate'?",
        ),
        (
            {"autoencoder": {"encoder": {"resolution": 1}}},
            "unknown key 'autoencoder.encoder.resolution' in EncoderConfig: "
            "legal are input_size, path",
        ),
    ],
)
def test_unknown_key_names_its_path_and_the_nearest_key(values, message):
    assert error_of(schema.Stage2Config, values) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": "1"}, "seed must be of type int, got '1' (str)"),
        ({"seed": True}, "seed must be of type int, got True (bool)"),
        ({"seed": 1.0}, "seed must be of type int, got 1.0 (float)"),
        ({"data": 3}, "data must be a section with keys of DataConfig, got 3 (int)"),
        (
            {"data": {"horizontal_flip": 1}},
            "data.horizontal_flip must be of type bool, got 1 (int)",
        ),
        (
            {"schedule": {"kind": 3}},
            "schedule.kind must be one of ('cosine', 'linear', 'constant'), got 3",
        ),
        ({"loop": {"writers": "jsonl"}}, "loop.writers must be a tuple, got 'jsonl' (str)"),
        ({"loop": {"writers": [3]}}, "loop.writers[0] must be of type str, got 3 (int)"),
    ],
)
def test_wrong_type_names_path_expected_and_received(values, message):
    assert error_of(schema.Stage1Config, values) == message


def test_whole_numbers_are_floats_and_lists_are_tuples():
    config = schema.parse(
        schema.SamplingConfig,
        {"guidance": {"method": "classifier_free", "scale": 2, "interval": [0, 1]}},
    )
    assert isinstance(config.guidance.scale, float)
    assert config.guidance.interval == (0.0, 1.0)
    assert isinstance(config.guidance.interval[0], float)
    assert error_of(schema.SamplingConfig, {"guidance": {"interval": (0.0,)}}) == (
        "guidance.interval must hold 2 values, got (0.0,) (tuple)"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "seed must be at least 0 and below 2^32, got -1"),
        ({"global_batch_size": 0}, "global_batch_size must be above 0, got 0"),
        ({"ema_decay": 1.0}, "ema_decay must be at least 0 and below 1, got 1.0"),
        ({"label_dropout": -0.1}, "label_dropout must be at least 0 and below 1, got -0.1"),
        ({"optimizer": {"learning_rate": 0.0}}, "optimizer.learning_rate must be above 0, got 0.0"),
        (
            {"optimizer": {"learning_rate": float("nan")}},
            "optimizer.learning_rate must be above 0, got nan",
        ),
        ({"optimizer": {"clip_norm": -1.0}}, "optimizer.clip_norm must be at least 0, got -1.0"),
        ({"duration": "0 epochs"}, "duration must be above 0, got '0 epochs'"),
        (
            {"schedule": {"warmup": "soon"}},
            "schedule.warmup must be a number and a unit, such as '16 epochs', '2000 steps' or "
            "'512000 images', got 'soon'",
        ),
        (
            {"schedule": {"kind": "cosin"}},
            "schedule.kind must be one of ('cosine', 'linear', 'constant'), got 'cosin'",
        ),
        ({"mesh": {"tensor": 0}}, "mesh.tensor must be above 0, or -1 for what is left, got 0"),
        (
            {"mesh": {"fsdp": -1}},
            "mesh.fsdp must be above 0, because data is already -1, got -1",
        ),
        (
            {"autoencoder": {"decoder": {"num_heads": 7}}},
            "autoencoder.decoder.hidden_size must be a multiple of num_heads, 7, got 1152",
        ),
        (
            {"denoiser": {"head_num_heads": 7}},
            "denoiser.head_hidden_size must be a multiple of head_num_heads, 7, got 2048",
        ),
        (
            {"loop": {"writers": ("jsonl", "paper")}},
            "loop.writers must be some of ('jsonl', 'tensorboard', 'wandb'), "
            "got ('jsonl', 'paper')",
        ),
        (
            {"data": {"crop": "random", "resize_size": 255}},
            "data.resize_size must be at least image_size, 256, for crop 'random', got 255",
        ),
        (
            {"data": {"source": "digits", "split": "validation"}},
            "data.split must be 'train' or 'test', got 'validation'",
        ),
    ],
)
def test_impossible_value_names_its_path_and_what_must_hold(values, message):
    assert error_of(schema.Stage2Config, values) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"labels": "3,x"},
            "labels must be 'equal', 'random' or labels and ranges such as '3,1,4' or '0-9,15', "
            "got '3,x'",
        ),
        ({"sampler": {"num_steps": 1}}, "sampler.num_steps must be at least 2, got 1"),
        (
            {"guidance": {"interval": (0.5, 0.2)}},
            "guidance.interval must be (low, high) with 0 <= low <= high <= 1, got (0.5, 0.2)",
        ),
    ],
)
def test_impossible_sampling_value(values, message):
    assert error_of(schema.SamplingConfig, values) == message


def test_values_are_checked_without_parsing_too():
    with pytest.raises(schema.ConfigError, match="hidden_size must be a multiple"):
        schema.DecoderConfig(num_heads=7)


def test_labels_may_be_a_list_of_classes():
    assert schema.SamplingConfig(labels="3, 1,4").labels == "3, 1,4"


def sections_below(cls) -> list[type[Section]]:
    found = [cls]
    for field in dataclasses.fields(cls):
        if isinstance(field.default, Section):
            found += sections_below(type(field.default))
    return found


@pytest.mark.parametrize("cls", RUNS)
def test_checked_fields_exist(cls):
    for section in sections_below(cls):
        names = {field.name for field in dataclasses.fields(section)}
        groups = (section.positive, section.not_negative, section.fractions, section.durations)
        assert {name for group in groups for name in group} <= names


def test_nearest_lists_all_names_when_none_is_near():
    assert nearest("colour", ["width", "depth"]) == "legal are depth, width"


def test_summary_has_a_line_for_each_section():
    lines = summary(schema.StatisticsConfig(batch_size=7))
    assert lines[:3] == [
        "batch_size=7, dtype='float32', momentum=0.0, momentum_ranks=1, save_seconds=60.0, "
        "reference=''",
        "autoencoder: noise_tau=0.8, checkpoint='', statistics='', pretrained=''",
        "autoencoder.encoder: path='facebook/vit-mae-base', input_size=256",
    ]
    assert [line.split(":")[0] for line in lines[3:]] == ["autoencoder.decoder", "data"]
    # A section that holds nothing but sections has no line of its own.
    assert summary(schema.DemoConfig())[0] == "seed=0"
    assert "stage1.loss: l1=1.0, features=0.0" in summary(schema.DemoConfig())
