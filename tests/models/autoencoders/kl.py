"""Golden AutoencoderKL as modules."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from rae_jax.layers.functional import abstract
from rae_jax.models.autoencoders.kl import AutoencoderKL
from rae_jax.models.autoencoders.kl_config import KLConfig
from rae_jax.weights import convert
from rae_jax.weights.tables.autoencoder_kl import Layout, autoencoder_kl_table
from tests.comparison import Case, nchw_to_nhwc
from tests.golden import recipe

TINY = ("tiny", "tiny_noattention", "tiny_noquant", "tiny_fourlevels", "tiny_deprecated_names")
"""Names of the cases in layouts of diffusers after `autoencoder_kl_`."""

SINGLE_FILES = ("single_file_tiny", "single_file_tiny_noquant")
"""Those in the original layout."""


def layout_of(case: Case) -> Layout:
    if case.statement.get("loader") == "single_file":
        return "original"
    deprecated = any(".query." in key for key in case.statement["entries"])
    return "diffusers_deprecated" if deprecated else "diffusers"


def autoencoder_of(case: Case, **options: Any) -> AutoencoderKL:
    config = KLConfig.read(case.config)
    table = autoencoder_kl_table(config, layout_of(case))
    empty = abstract(lambda: AutoencoderKL(config, rngs=nnx.Rngs(0), **options))
    return convert.load(table, case.entries(), empty)


def images_of(case: Case, name: str) -> jnp.ndarray:
    """Images in [0, 1] of pixels in [-1, 1]."""
    pixels = case.statement["inputs"][name]
    assert (pixels["recipe"], pixels["scale"], pixels["shift"]) == ("images", 2, -1)
    return jnp.asarray(nchw_to_nhwc(recipe.images(pixels["recipe_name"], tuple(pixels["shape"]))))


def latents_of(case: Case, name: str) -> jnp.ndarray:
    return jnp.asarray(nchw_to_nhwc(case.input(name)))
