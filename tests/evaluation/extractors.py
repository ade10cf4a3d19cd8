"""Networks that the tests judge images by."""

import functools

import jax
import numpy as np

from rae_jax.configuration.schema import EncoderConfig, ExtractorConfig
from rae_jax.data.sources.digits import Digits
from rae_jax.evaluation.features import Extractor, encoder
from tests.comparison import Case
from tests.golden import recipe

SIZE = 48
DIGITS_ENCODER = EncoderConfig(path="builtin:digits_mae", input_size=SIZE)
DIGITS = ExtractorConfig(kind="encoder", encoder=DIGITS_ENCODER, rows=16)


@functools.cache
def digits_extractor(rows: int = 16, num_devices: int = 1) -> Extractor:
    """The bundled encoder, compiled once for all tests."""
    return encoder(DIGITS_ENCODER, rows=rows, devices=jax.devices()[:num_devices])


@functools.cache
def digits(split: str, count: int, start: int = 0) -> np.ndarray:
    """Some digits, uint8 [count, SIZE, SIZE, 3]; not to be changed."""
    source = Digits(split, image_size=SIZE)
    return np.stack([source[index]["image"] for index in range(start, start + count)])


def inception_entries(case: Case) -> dict[str, np.ndarray]:
    """Entries of the published file with the weights of the recipe, as `case` states them."""
    tensors = case.entries()
    rule = case.statement["running_var"]
    for key in tensors:
        if key.endswith("running_var"):
            drawn = recipe.weight(key + rule["suffix"], tensors[key].shape)
            tensors[key] = drawn * np.float32(rule["scale"])
    return tensors


def rounded_pictures(case: Case, name: str) -> np.ndarray:
    """Images of `case`, which rounds to whole levels after scaling, as others do not."""
    entry = case.statement["inputs"][name]
    pixels = recipe.images(entry["recipe_name"], tuple(entry["shape"])) * entry["scale"]
    return np.moveaxis(np.rint(pixels).astype(np.uint8), 1, -1)
