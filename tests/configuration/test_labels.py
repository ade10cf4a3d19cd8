import pytest

from rae_jax.configuration.errors import ConfigError
from rae_jax.configuration.labels import parse_labels
from rae_jax.configuration.schema import SamplingConfig


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("7", [7]),
        ("3,1,4", [3, 1, 4]),
        ("0-3", [0, 1, 2, 3]),
        (" 0 - 2 , 15,2-2", [0, 1, 2, 15, 2]),
    ],
)
def test_labels_and_ranges(text, labels):
    assert [label for part in parse_labels(text) for label in part] == labels
    assert SamplingConfig(labels=text).labels == text


@pytest.mark.parametrize("text", ["", "a", "1,", "-1", "1-", "3-1", "1.5", "1 2", "0-2-4"])
def test_other_text_is_refused(text):
    with pytest.raises(ConfigError, match="labels and ranges such as") as caught:
        parse_labels(text)
    assert repr(text) in str(caught.value)
    with pytest.raises(ConfigError, match="^labels must be 'equal', 'random' or labels and"):
        SamplingConfig(labels=text)
