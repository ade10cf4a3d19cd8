"""Memory of the published autoencoder, as the compiler plans it."""

import jax
import pytest

from rae_jax.layers.functional import split
from rae_jax.models.autoencoders.kl_config import RELEASED
from rae_jax.models.autoencoders.tiling import Tiling
from rae_jax.weights.autoencoder_kl import empty
from rae_jax.weights.autoencoders import Loading

pytestmark = pytest.mark.slow

MIB = 2**20


def planned(side: int, tiling: Tiling | None) -> float:
    """MiB besides weights and image that decoding one image of `side` pixels takes."""
    module = empty(RELEASED["sd-vae-ft-mse"], Loading(tiling=tiling))
    definition, weights = split(module)
    latents = jax.ShapeDtypeStruct((1, *module.latent_shape(side)), "float32")
    decode = jax.jit(lambda weights, latents: definition.merge(weights).decode(latents))
    memory = decode.lower(weights, latents).compile().memory_analysis()
    return memory.temp_size_in_bytes / MIB


def test_tiles_bound_the_memory_of_a_large_image():
    # Measured 1058 MiB, of which 300 hold the finished tiles; 896 MiB for 512 pixels at once.
    assert planned(4096, Tiling()) < 1280
    assert planned(512, None) < 1024
