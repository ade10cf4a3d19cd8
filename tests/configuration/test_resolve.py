"""Durations."""

import pytest

from rae_jax.configuration import resolve
from rae_jax.configuration.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2000 steps", 2000),
        ("1 step", 1),
        ("2_000steps", 2000),
        ("0 steps", 0),
        ("16 epochs", 40036),
        ("1 epoch", 2502),
        ("0.5 epochs", 1251),
        ("0 epochs", 0),
        ("512000 images", 1000),
        ("512 Images", 1),
        ("768 images", 2),
        ("1 image", 1),
    ],
)
def test_steps_of_imagenet_at_batch_512(text, expected):
    per_epoch = resolve.steps_per_epoch(1_281_167, 512)
    assert resolve.steps(text, steps_per_epoch=per_epoch, global_batch_size=512) == expected


@pytest.mark.parametrize(
    "text", ["", "16", "epochs", "16 hours", "-1 epochs", "1e3 steps", "1 2 steps", "nan steps"]
)
def test_text_that_is_no_duration(text):
    with pytest.raises(ConfigError, match="a number and a unit") as caught:
        resolve.steps(text, steps_per_epoch=1, global_batch_size=1)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["1.5 steps", "0.5 images"])
def test_only_epochs_are_divisible(text):
    with pytest.raises(ConfigError, match="a whole number of"):
        resolve.parse_duration(text)


def test_an_epoch_needs_records():
    with pytest.raises(ValueError, match="got 0 records"):
        resolve.steps_per_epoch(0, 4)
    with pytest.raises(ValueError, match="must be positive, got 0 and 4"):
        resolve.steps("1 epochs", steps_per_epoch=0, global_batch_size=4)
