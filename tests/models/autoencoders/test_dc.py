import jax
import numpy as np
import pytest

from rae_jax.layers.functional import split
from rae_jax.ops.images import to_signed
from tests.comparison import load_case, nhwc_to_nchw
from tests.models.autoencoders.dc import SINGLE_FILES, TINY, autoencoder_of, images_of, latents_of


@pytest.mark.parametrize("name", [*TINY, *SINGLE_FILES])
def test_answers_are_those_of_diffusers(name):
    case = load_case(f"autoencoder_dc_{name}")
    definition, weights = split(autoencoder_of(case))

    @jax.jit
    def answers(weights, images, latents, small_images, small_latents):
        module = definition.merge(weights)
        features = module.features(images)
        return {
            "latent": features,
            "reconstruction": to_signed(module.decode_features(features)),
            "sample": to_signed(module.decode_features(latents)),
            "small_latent": module.features(small_images),
            "small_sample": to_signed(module.decode_features(small_latents)),
        }

    inputs = (
        images_of(case, "pixel_values"),
        latents_of(case, "latents"),
        images_of(case, "small_values"),
        latents_of(case, "small_latents"),
    )
    for output, values in answers(weights, *inputs).items():
        tolerance = case.statement["outputs"][output]["tolerance"]
        print(name, output, np.abs(nhwc_to_nchw(values)-case.output(output)).max()/tolerance)
        case.assert_close(output, nhwc_to_nchw(values))
