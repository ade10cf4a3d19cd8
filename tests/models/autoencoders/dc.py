"""Golden AutoencoderDC as entries and as modules."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rae_jax.layers.functional import abstract
from rae_jax.models.autoencoders.dc import AutoencoderDC
from rae_jax.models.autoencoders.dc_config import DCConfig
from rae_jax.weights import convert
from rae_jax.weights.tables.autoencoder_dc import autoencoder_dc_table
from tests.comparison import Case, nchw_to_nhwc
from tests.golden import recipe

TINY = ("tiny", "tiny_in", "tiny_noshortcut")
"""Names of the cases in the layout of diffusers after `autoencoder_dc_`."""

SINGLE_FILES = ("single_file_tiny", "single_file_tiny_in")
"""Those in the original layout."""


def tensors_of(case: Case) -> dict[str, np.ndarray]:
    """Entries of the file; variances are positive and counts of batches 0."""
    tensors = case.entries()
    for key, values in tensors.items():
        if key.endswith("running_var"):
            named = case.statement["running_var"]
            prefix = case.statement["prefix"]
            tensors[key] = named["scale"] * recipe.weight(
                prefix + key + named["suffix"], values.shape
            )
    return tensors | {key: np.zeros((), np.int64) for key in case.statement["constructed"]}


def layout_of(case: Case) -> Any:
    return "original" if case.statement.get("loader") == "single_file" else "diffusers"


def autoencoder_of(case: Case, **options: Any) -> AutoencoderDC:
    config = DCConfig.read(case.config)
    table = autoencoder_dc_table(config, layout_of(case))
    empty = abstract(lambda: AutoencoderDC(config, rngs=nnx.Rngs(0), **options))
    return convert.load(table, tensors_of(case), empty)


def images_of(case: Case, name: str) -> jnp.ndarray:
    """Images in [0, 1] of pixels in [-1, 1]."""
    pixels = case.statement["inputs"][name]
    assert (pixels["recipe"], pixels["scale"], pixels["shift"]) == ("images", 2, -1)
    return jnp.asarray(nchw_to_nhwc(recipe.images(pixels["recipe_name"], tuple(pixels["shape"]))))


def latents_of(case: Case, name: str) -> jnp.ndarray:
    return jnp.asarray(nchw_to_nhwc(case.input(name)))
